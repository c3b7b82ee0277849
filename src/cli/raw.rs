//! What may be written on the command line, as argh reads it: help, shell completions and the parser come from here.
//!
//! A new command is one more arm of [`RawCommand`], with a struct of its own; `validate` then says what it means.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

/// Copies the unsent rows of a PostgreSQL table into a Kafka topic, flags them, drains the topic into ClickHouse, each row
/// version exactly once, and exits.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    help_triggers("-h", "--help"),
    usage = "--once | --every <interval> | <command> [<options>]",
    example = "pg2ch --once\npg2ch --every 30s --json\npg2ch consume --table public.user_logins --max-seconds 50",
    note = "Options may stand before and after the command. Without a configuration file the defaults fit\n\
            docker-compose.yml; `pg2ch config generate` prints a file to start from.",
    error_code(0, "done, or nothing to do"),
    error_code(64, "the command line cannot be understood"),
    error_code(65, "finished, but some data was refused, lost or differs"),
    error_code(69, "a server stayed unreachable"),
    error_code(70, "a bug"),
    error_code(75, "another run holds the lock"),
    error_code(77, "a permission or a password"),
    error_code(78, "the configuration")
)]
pub struct RawArguments {
    /// one run: both legs, then exit
    #[argh(switch)]
    pub(super) once: bool,

    /// runs again and again, with this pause (30s, 5m) between two, until SIGTERM
    #[argh(option, arg_name = "interval")]
    pub(super) every: Option<String>,

    /// the configuration file, instead of $PG2CH_CONFIG, ./pg2ch.toml or /etc/pg2ch/pg2ch.toml
    #[argh(option, arg_name = "file")]
    pub(super) config: Option<PathBuf>,

    /// only this table of the configuration; may be given several times
    #[argh(option, arg_name = "name")]
    pub(super) table: Vec<String>,

    /// moves so many tables at a time, instead of one after the other
    #[argh(option, arg_name = "n")]
    pub(super) jobs: Option<String>,

    /// moves at most so many rows per table and leg
    #[argh(option, arg_name = "n")]
    pub(super) max_rows: Option<String>,

    /// takes on no more work after so many seconds
    #[argh(option, arg_name = "s")]
    pub(super) max_seconds: Option<String>,

    /// waits so long (5m) for another run to end instead of exiting with 75 at once
    #[argh(option, arg_name = "duration")]
    pub(super) wait_lock: Option<String>,

    /// prints the result as JSON on standard output, on failure too
    #[argh(switch)]
    pub(super) json: bool,

    /// prints nothing but errors
    #[argh(switch, short = 'q')]
    pub(super) quiet: bool,

    /// logs what is done; -vv logs every step
    #[argh(switch, short = 'v')]
    pub(super) verbose: u8,

    /// prints the version
    #[argh(switch)]
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
    DeadLetters(RawDeadLetters),
    Config(RawConfig),
    Completions(RawCompletions),
    Man(RawMan),
}

/// The first leg alone: unsent rows from PostgreSQL to Kafka.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "produce",
    help_triggers("-h", "--help"),
    note = "The options of `pg2ch --help` work here, too."
)]
pub(super) struct RawProduce {}

/// The second leg alone: records from Kafka to ClickHouse.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "consume",
    help_triggers("-h", "--help"),
    note = "The options of `pg2ch --help` work here, too."
)]
pub(super) struct RawConsume {}

/// Creates what is missing: checkpoint table, partial index, topic, target database and table.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "init",
    help_triggers("-h", "--help"),
    note = "The options of `pg2ch --help` work here, too."
)]
pub(super) struct RawInit {
    /// prints what would be done, and changes nothing
    #[argh(switch)]
    pub(super) print: bool,

    /// counts what the topic holds today as flagged and copied: for moving over from another pipeline
    #[argh(switch)]
    pub(super) start_at_end: bool,

    /// copies what the topic holds from its beginning, into a target that cannot be asked what it holds already
    #[argh(switch)]
    pub(super) start_at_beginning: bool,
}

/// Asks all three servers what would go wrong, and what a run would move now; changes nothing.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "check",
    help_triggers("-h", "--help"),
    note = "Ends with 0, or with 78 if there is an error among the findings.\n\
            The options of `pg2ch --help` work here, too."
)]
pub(super) struct RawCheck {}

/// Tells what waits to be moved, and what the last runs did; works while a run works.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "status",
    help_triggers("-h", "--help"),
    note = "The options of `pg2ch --help` work here, too."
)]
pub(super) struct RawStatus {}

/// Compares PostgreSQL with ClickHouse, key by key: unsent, in the topic, dead letter, missing, doubled.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "verify",
    help_triggers("-h", "--help"),
    note = "Ends with 65 if rows are missing, doubled, different or dead letters; unsent rows are no difference.\n\
            The options of `pg2ch --help` work here, too."
)]
pub(super) struct RawVerify {
    /// compares the contents, too
    #[argh(switch)]
    pub(super) deep: bool,

    /// tells which rows would be sent again, with --confirm takes their flags back
    #[argh(switch)]
    pub(super) repair: bool,

    /// does what --repair tells
    #[argh(switch)]
    pub(super) confirm: bool,
}

/// Lists the records that the target refused.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "dead-letters",
    help_triggers("-h", "--help"),
    note = "The options of `pg2ch --help` work here, too."
)]
pub(super) struct RawDeadLetters {
    #[argh(subcommand)]
    pub(super) action: Option<RawDeadLettersAction>,
}

#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand)]
pub(super) enum RawDeadLettersAction {
    Replay(RawReplay),
}

/// Inserts them into the target again, as the rows they were.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "replay", help_triggers("-h", "--help"))]
pub(super) struct RawReplay {}

/// Shows the effective configuration, or prints an example.
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

/// Shows every effective value and where it came from, secrets masked.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "show", help_triggers("-h", "--help"), note = "--config, --table and --json work here, too.")]
pub(super) struct RawShow {}

/// Prints a commented configuration file to start from.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "generate", help_triggers("-h", "--help"))]
pub(super) struct RawGenerate {}

/// Prints what a shell needs to complete pg2ch's command line.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(
    subcommand,
    name = "completions",
    help_triggers("-h", "--help"),
    example = "pg2ch completions bash > ~/.local/share/bash-completion/completions/pg2ch"
)]
pub(super) struct RawCompletions {
    /// bash, zsh or fish
    #[argh(positional)]
    pub(super) shell: String,
}

/// Prints the manual page.
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "man", help_triggers("-h", "--help"), example = "pg2ch man | man -l -")]
pub(super) struct RawMan {}
