//! What may be written on the command line, as argh reads it: help, shell completions and the parser come from here.
//!
//! A new command is one more arm of [`RawCommand`], with a struct of its own; `accepts` names the common options that it
//! takes, and `validate` says what it means.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

/// Copy unsent rows from a PostgreSQL table to a Kafka topic, flag them, then copy the topic to ClickHouse: each row version
/// exactly once.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    help_triggers("-h", "--help"),
    example = "pg2ch --once\npg2ch --every 30s --json\npg2ch consume --table public.user_logins --max-seconds 50",
    note = "Options may stand before and after the command; `pg2ch help COMMAND` lists those that it takes.\n\
            Without a configuration file pg2ch uses the servers of docker-compose.yml; `pg2ch config generate` prints a file \
            to start from.",
    error_code(0, "done, or nothing to do"),
    error_code(64, "command line not understood"),
    error_code(65, "finished, but some data was refused, lost or differs"),
    error_code(69, "a server stayed unreachable, or standard output cannot be written"),
    error_code(70, "a bug"),
    error_code(75, "another run holds the lock, or verify was interrupted"),
    error_code(77, "password refused or privilege missing"),
    error_code(78, "configuration, or a table that does not fit")
)]
#[expect(clippy::struct_excessive_bools, reason = "one for each switch")]
pub struct RawArguments {
    /// run once (PostgreSQL → Kafka → ClickHouse), then exit
    #[argh(switch)]
    pub(super) once: bool,

    /// repeat until SIGTERM, pausing this long between runs, e.g. 30s or 5m
    #[argh(option, arg_name = "PAUSE")]
    pub(super) every: Option<String>,

    /// read this configuration file instead of $PG2CH_CONFIG, ./pg2ch.toml or /etc/pg2ch/pg2ch.toml
    #[argh(option, arg_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// use only this table of the configuration; repeatable
    #[argh(option, arg_name = "NAME")]
    pub(super) table: Vec<String>,

    /// move up to N tables at a time (default: `jobs` in [run], 1)
    #[argh(option, arg_name = "N")]
    pub(super) jobs: Option<String>,

    /// move at most N rows per table in each leg
    #[argh(option, arg_name = "N")]
    pub(super) max_rows: Option<String>,

    /// start no new batch after S seconds
    #[argh(option, arg_name = "S")]
    pub(super) max_seconds: Option<String>,

    /// wait up to this long, e.g. 5m, for another run to end, instead of exiting with 75 at once
    #[argh(option, arg_name = "TIME")]
    pub(super) wait_lock: Option<String>,

    /// print the result as JSON on standard output, also after a failure
    #[argh(switch)]
    pub(super) json: bool,

    /// print errors only, and a result only if the exit code is not 0
    #[argh(switch, short = 'q')]
    pub(super) quiet: bool,

    /// log what is done; -vv logs every step
    #[argh(switch, short = 'v')]
    pub(super) verbose: u8,

    /// print the version
    #[argh(switch, short = 'V')]
    pub(super) version: bool,

    #[argh(subcommand)]
    pub(super) command: Option<RawCommand>,
}

#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand)]
pub(super) enum RawCommand {
    Produce(RawProduce),
    Consume(RawConsume),
    Init(RawInit),
    Check(RawCheck),
    Status(RawStatus),
    Verify(RawVerify),
    Prune(RawPrune),
    DeadLetters(RawDeadLetters),
    Config(RawConfig),
    Completions(RawCompletions),
    Man(RawMan),
    Version(RawVersion),
}

/// Run the produce leg alone: unsent rows from PostgreSQL to Kafka.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "produce", help_triggers("-h", "--help"))]
pub(super) struct RawProduce {}

/// Run the consume leg alone: records from Kafka to ClickHouse.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "consume", help_triggers("-h", "--help"))]
pub(super) struct RawConsume {}

/// Create what is missing: pg2ch's own tables, partial index, topics, target database and table.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "init", help_triggers("-h", "--help"), example = "pg2ch init --print")]
pub(super) struct RawInit {
    /// print the statements and commands, change nothing
    #[argh(switch)]
    pub(super) print: bool,

    /// count what the topic holds today as flagged and copied, to take over from another pipeline
    #[argh(switch)]
    pub(super) start_at_end: bool,

    /// copy the topic from its beginning; what the target holds of it by its columns `_partition`, `_offset` and `_timestamp` is left
    /// alone
    #[argh(switch)]
    pub(super) start_at_beginning: bool,
}

/// Check all three servers for problems and show what a run would move. Changes nothing.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "check",
    help_triggers("-h", "--help"),
    note = "Exits with 0, or with 78 if there is an error among the findings."
)]
pub(super) struct RawCheck {}

/// Show the unsent rows, the uncopied records and how the last runs ended; works while a run is in progress.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "status", help_triggers("-h", "--help"))]
pub(super) struct RawStatus {}

/// Compare PostgreSQL with ClickHouse, key by key: unsent, in the topic, dead letter, missing, doubled.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "verify",
    help_triggers("-h", "--help"),
    note = "Exits with 65 if rows are missing, doubled, different or dead letters. Unsent rows are no difference.\n\
            Exits with 75 if it was interrupted before everything was compared, and found no difference until then."
)]
pub(super) struct RawVerify {
    /// compare the contents as well
    #[argh(switch)]
    pub(super) deep: bool,

    /// show which rows would be sent again; with --confirm set their flags to FALSE
    #[argh(switch)]
    pub(super) repair: bool,

    /// do what --repair shows
    #[argh(switch)]
    pub(super) confirm: bool,
}

/// Delete old flagged rows that the target provably holds. Without --confirm show how many.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "prune",
    help_triggers("-h", "--help"),
    example = "pg2ch prune --older-than 7d --by created_at --confirm",
    note = "A row that the target does not show unchanged is kept, whatever its age."
)]
pub(super) struct RawPrune {
    /// delete rows at least this old, e.g. 7d
    #[argh(option, arg_name = "AGE")]
    pub(super) older_than: String,

    /// the date or timestamp column that says how old a row is
    #[argh(option, arg_name = "COLUMN")]
    pub(super) by: String,

    /// keep rows that were sent less than this ago (default: 1h)
    #[argh(option, arg_name = "AGE")]
    pub(super) held_for: Option<String>,

    /// do it
    #[argh(switch)]
    pub(super) confirm: bool,

    /// prune by another column than the last time; verify then no longer knows what was pruned by that one
    #[argh(switch)]
    pub(super) force: bool,
}

/// List the records that the target refused.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "dead-letters",
    help_triggers("-h", "--help"),
    note = "Exits with 65 while a dead letter is pending: while the target does not hold its record."
)]
pub(super) struct RawDeadLetters {
    #[argh(subcommand)]
    pub(super) action: Option<RawDeadLettersAction>,
}

#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand)]
pub(super) enum RawDeadLettersAction {
    Replay(RawReplay),
    Drop(RawDrop),
}

/// Insert the dead letters whose records the target does not hold, with their original partition, offset and timestamp. Those that are
/// listed as settled are among them; those that were dropped, or replayed before, are not.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "replay", help_triggers("-h", "--help"))]
pub(super) struct RawReplay {}

/// Show which pending dead letters would be dismissed; with --confirm dismiss them. They stay in their topic, and are not counted any
/// more.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "drop",
    help_triggers("-h", "--help"),
    example = "pg2ch dead-letters drop 0:17 --confirm",
    note = "Exits with 65 while a dead letter is pending. Replay inserts a dismissed letter no more."
)]
pub(super) struct RawDrop {
    /// the records, as the list shows them, with @TIME where several have one place; all that are pending, if left out
    #[argh(positional, arg_name = "PARTITION:OFFSET")]
    pub(super) records: Vec<String>,

    /// do it
    #[argh(switch)]
    pub(super) confirm: bool,
}

/// Show the effective configuration, or print an example.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "config", help_triggers("-h", "--help"))]
pub(super) struct RawConfig {
    #[argh(subcommand)]
    pub(super) action: Option<RawConfigAction>,
}

#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand)]
pub(super) enum RawConfigAction {
    Show(RawShow),
    Generate(RawGenerate),
}

/// Show every effective value and where it came from, secrets masked.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "show", help_triggers("-h", "--help"))]
pub(super) struct RawShow {}

/// Print a commented configuration file to start from.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "generate", help_triggers("-h", "--help"), example = "pg2ch config generate > pg2ch.toml")]
pub(super) struct RawGenerate {}

/// Print a shell's completion script.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "completions",
    help_triggers("-h", "--help"),
    example = "pg2ch completions bash > ~/.local/share/bash-completion/completions/pg2ch"
)]
pub(super) struct RawCompletions {
    /// bash, zsh or fish
    #[argh(positional, arg_name = "SHELL")]
    pub(super) shell: String,
}

/// Print the manual page.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "man", help_triggers("-h", "--help"), example = "pg2ch man | man -l -")]
pub(super) struct RawMan {}

/// Print the version.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "version", help_triggers("-h", "--help"))]
pub(super) struct RawVersion {}
