//! `pg2ch`: parse, log, run, exit code.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use pg2ch::cli;
use pg2ch::cli::{Command, Invocation, Parsed};
use pg2ch::commands::{self, Frame, check, completions, dead_letters, init, manual, prune, status, verify};
use pg2ch::config::{self, Config};
use pg2ch::error::{Error, ExitCode, Result};
use pg2ch::logging;
use pg2ch::logging::Verbosity;
use pg2ch::open::Warm;
use pg2ch::outcome::heartbeat::Heartbeat;
use pg2ch::outcome::notify::Reported;
use pg2ch::outcome::{backlog, metrics};
use pg2ch::ports::limits::Limits;
use pg2ch::report::{Legs, RunReport, TableReport};
use pg2ch::run;
use pg2ch::run_id::RunId;
use pg2ch::shutdown::{Shutdown, survive_file_limits};
use pg2ch::terminal;

fn main() {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // Without the handler a run is as good.
    let _ = survive_file_limits();
    // A panic is a bug, and has its exit code like any other end.
    let outcome = catch_unwind(AssertUnwindSafe(|| start(&arguments)));
    let outcome = outcome.unwrap_or_else(|_| Err(Error::bug("pg2ch stopped", "it panicked (message above)")));
    let code = outcome.unwrap_or_else(|error| fail(&error, cli::wants_json(&arguments)));
    // Without exit's hooks: clients that are still being closed on threads of their own use OpenSSL, whose hook takes it
    // apart (seen once as a double free). What was printed is written.
    signal_hook::low_level::exit(code.code().into());
}

fn start(arguments: &[OsString]) -> Result<ExitCode> {
    logging::use_json(config::wants_json_log());
    if arguments.is_empty() {
        logging::print_line(cli::help::help(&[]).unwrap_or_default().trim_end());
        return Ok(ExitCode::Usage);
    }
    match cli::parse(arguments)? {
        Parsed::Text(text) => Ok(show(&text)),
        Parsed::Invocation(invocation) => {
            // Progress is for a person who watches a run, not for a machine that reads its result.
            if matches!(invocation.command, Command::Run { .. })
                && !invocation.json
                && invocation.verbosity > Verbosity::Quiet
            {
                terminal::watch();
            }
            RunId::begin();
            logging::start(invocation.verbosity);
            execute(&invocation)
        }
    }
}

fn execute(invocation: &Invocation) -> Result<ExitCode> {
    let Invocation { command, flags, limits, json, .. } = invocation;
    let load = || config::load(flags).inspect(|config| logging::use_json(config.log_json));
    let (text, code) = match command {
        Command::Run { legs, every: None } => {
            let config = load()?;
            let shutdown = listen()?;
            let reported = Reported::start(&config.notify);
            let mut report = move_rows(&config, *legs, limits, &shutdown, None);
            return Ok(finish(&config, &mut report, reported, invocation, None));
        }
        Command::Run { legs, every: Some(pause) } => return repeat(&load()?, *legs, *pause, invocation),
        Command::ShowConfig => return Ok(show(&commands::config::show(&config::explain(flags)?, *json))),
        Command::GenerateConfig => return Ok(show(config::EXAMPLE)),
        Command::Completions(shell) => {
            return Ok(show(&completions::script(*shell, &cli::definitions(), cli::common_options)));
        }
        Command::Man => return Ok(show(&manual::page(&cli::definitions(), cli::common_options))),
        // These may be ended at any time; those that write finish what they have begun.
        Command::Check => Frame::new(&load()?, limits, Shutdown::default(), *json)
            .run(|frame, table| Ok(check::check(frame, table)))?,
        Command::Status => Frame::new(&load()?, limits, Shutdown::default(), *json)
            .run(|frame, table| Ok(status::status(frame, table)))?,
        &Command::Init { print, start } => Frame::new(&load()?, limits, Shutdown::default(), *json)
            .run_on(move |leg| init::create_missing(leg, print, start))?,
        &Command::Verify(options) => {
            Frame::new(&load()?, limits, listen()?, *json).run_on(move |leg| verify::verify(leg, options))?
        }
        Command::Prune(options) => {
            let options = options.clone();
            Frame::new(&load()?, limits, listen()?, *json).run_on(move |leg| prune::prune(leg, &options))?
        }
        Command::DeadLetters => Frame::new(&load()?, limits, listen()?, *json).run_on(dead_letters::list)?,
        Command::DropDeadLetters(choice) => {
            let config = load()?;
            choice.require_one_table(&config)?;
            let choice = choice.clone();
            Frame::new(&config, limits, listen()?, *json).run_on(move |leg| dead_letters::dismiss(leg, &choice))?
        }
        Command::ReplayDeadLetters => Frame::new(&load()?, limits, listen()?, *json).run_on(dead_letters::replay)?,
    };
    Ok(conclude((text, code), invocation))
}

/// One run, and what `keep` prunes at its end.
fn move_rows(
    config: &Config,
    legs: Legs,
    limits: &Limits,
    shutdown: &Shutdown,
    warm: Option<&mut Vec<Warm>>,
) -> RunReport {
    let mut report = run::run(config, legs, limits, shutdown, warm);
    prune::keep(config, &mut report, limits, shutdown);
    report
}

fn show(text: &str) -> ExitCode {
    print(text, ExitCode::Done)
}

fn listen() -> Result<Shutdown> {
    let is_watched = std::io::stderr().is_terminal() && log::log_enabled!(log::Level::Warn);
    Shutdown::on_signals(move || {
        if is_watched {
            logging::print_line("finishing the batches in progress; again to stop at once");
        }
    })
    .map_err(|error| Error::bug("cannot listen to SIGTERM and SIGINT", error))
}

/// Prints a command's result, unless it is not wanted: `--quiet` keeps silent about what went well.
fn conclude((text, code): (String, ExitCode), invocation: &Invocation) -> ExitCode {
    if invocation.json || invocation.verbosity > Verbosity::Quiet || code != ExitCode::Done {
        return print(&text, code);
    }
    code
}

/// With more tables than this, none keeps its connections between two runs: PostgreSQL admits 100 sessions unless it is configured
/// otherwise, and applications need most of them.
const MOST_WARM: usize = 20;

/// Runs, waits, and runs again, until a signal asks for the end. An error is printed and the next run tries again, but
/// not where only a person can help any of the tables.
fn repeat(config: &Config, legs: Legs, pause: Duration, invocation: &Invocation) -> Result<ExitCode> {
    let shutdown = listen()?;
    let mut heartbeat = Heartbeat::default();
    let mut warm = (config.tables.len() <= MOST_WARM).then(Vec::new);
    loop {
        let reported = Reported::start(&config.notify);
        let mut report = move_rows(config, legs, &invocation.limits, &shutdown, warm.as_mut());
        let code = finish(config, &mut report, reported, invocation, Some(&mut heartbeat));
        let needs_person = |table: &TableReport| matches!(table.exit_code(), ExitCode::Config | ExitCode::Permission);
        if report.tables.iter().all(needs_person) && !shutdown.is_requested() {
            return Ok(code);
        }
        if shutdown.wait(pause) {
            return Ok(ExitCode::Done);
        }
        RunId::begin();
    }
}

/// Leaves word of a run for the metrics' collector, and prints how it went: its errors, one line for a person who is there
/// or needs it, JSON for a machine that asked. Then the report of `[notify]` goes out.
fn finish(
    config: &Config,
    report: &mut RunReport,
    reported: Reported<'_>,
    invocation: &Invocation,
    heartbeat: Option<&mut Heartbeat>,
) -> ExitCode {
    backlog::measure(config, report);
    metrics::write(config, report);
    let mut code = report.exit_code();
    for error in report.errors() {
        logging::print_error(error);
    }
    let has_reader = std::io::stderr().is_terminal() && !invocation.json;
    // Cron sends what is printed: nothing where all went well.
    let is_worth_it = has_reader || invocation.verbosity >= Verbosity::Verbose || code != ExitCode::Done;
    let line = match heartbeat {
        _ if is_worth_it => Some(report.summary()),
        Some(heartbeat) if !invocation.json => heartbeat.line(report, Instant::now()),
        _ => None,
    };
    if let Some(line) = line.filter(|_| invocation.verbosity > Verbosity::Quiet) {
        logging::print_line(&line);
    }
    if invocation.json {
        let is_repeated = matches!(invocation.command, Command::Run { every: Some(_), .. });
        code = print(&if is_repeated { report.to_json_line() } else { report.to_json() }, code);
    }
    reported.end(report);
    code
}

fn fail(error: &Error, json: bool) -> ExitCode {
    logging::print_error(error);
    let code = error.exit_code();
    if json {
        return print(&serde_json::json!({ "error": error, "exit_code": code.code() }).to_string(), code);
    }
    code
}

/// Prints a command's result on standard output, with one newline at the end; returns the exit code of a command that ended
/// with `code`. Without its result, a command has not done what it was called for.
fn print(text: &str, code: ExitCode) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        // A reader that has seen enough (`| head`) is no failure.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let error = Error::unavailable(
                "cannot write to standard output",
                error,
                "free space on the disk, or write to another file, then run the command again",
            );
            logging::print_error(&error);
            code.graver(error.exit_code())
        }
        _ => code,
    }
}
