//! Runs of the program: to their end, killed or stopped at a crash point.

use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

use super::World;

/// The exit code of a run that SIGKILL has ended.
pub const KILLED: i32 = -9;

/// A run that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(300);

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A run that has stopped at a crash point.
pub struct Suspended(Child);

impl Suspended {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Wakes it up.
    pub fn go_on(&mut self) {
        signal_process("CONT", self.pid());
    }

    /// Waits for its end.
    pub fn end(self) -> Ended {
        Ended::after(self.0)
    }
}

impl World {
    /// The program with this world's configuration, not yet started. The environment is empty, as cron's nearly is.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pg2ch"));
        command.env_clear().current_dir(&self.dir).arg("--config").arg(self.config()).args(args).stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        Ended::after(self.start(args))
    }

    /// One run of both legs, with its JSON report.
    pub fn once(&self) -> Ended {
        self.run(&["--once", "--json"])
    }

    /// Starts the program; its output is kept.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs the program with a crash point armed, and fails unless it died there.
    #[track_caller]
    pub fn kill_at(&self, point: &str, args: &[&str]) {
        let ended = self.crash_at(point, args);
        assert_eq!(ended.code, KILLED, "{point}: {ended:?}");
    }

    /// Runs the program with a crash point armed: if it comes there, it dies by SIGKILL.
    pub fn crash_at(&self, point: &str, args: &[&str]) -> Ended {
        let mut command = self.command(args);
        command.env("PG2CH_CRASH_AT", point).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ended::after(command.spawn().unwrap())
    }

    /// Starts the first leg and waits until it has stopped at a crash point, as a suspended machine stops.
    pub fn start_stopped_at(&self, point: &str) -> Suspended {
        self.start_leg_stopped_at("produce", point)
    }

    /// The same for either leg.
    pub fn start_leg_stopped_at(&self, leg: &str, point: &str) -> Suspended {
        self.start_command_stopped_at(&[leg, "--json"], point)
    }

    /// The same for any command.
    pub fn start_command_stopped_at(&self, args: &[&str], point: &str) -> Suspended {
        self.stopped(self.command(args), point)
    }

    /// The same; once it goes on it comes to another point, where it dies.
    pub fn start_command_stopped_and_killed_at(&self, args: &[&str], point: &str, end: &str) -> Suspended {
        let mut command = self.command(args);
        command.env("PG2CH_CRASH_AT", end);
        self.stopped(command, point)
    }

    /// The same for a command with an environment of its own.
    pub fn stopped(&self, mut command: Command, point: &str) -> Suspended {
        command.env("PG2CH_STOP_AT", point).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = Suspended(command.spawn().unwrap());
        self.wait_until_stopped(point, &run.0);
        run
    }

    /// Waits until a run has stopped at a crash point.
    pub fn wait_until_stopped(&self, point: &str, run: &Child) {
        let stat = format!("/proc/{}/stat", run.id());
        self.wait_for(&format!("the run to stop at {point}"), || {
            let text = std::fs::read_to_string(&stat).unwrap();
            // The state follows the command's name, which is in parentheses.
            text.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
        });
    }
}

impl Ended {
    /// Waits for the end of a run. One that hangs is killed and fails its own test, not all others by never ending.
    #[track_caller]
    pub fn after(run: Child) -> Self {
        let process = run.id();
        let (end, ended) = channel::<()>();
        let guard = std::thread::spawn(move || {
            let hangs = ended.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout);
            if hangs {
                signal_process("KILL", process);
            }
            hangs
        });
        let output = run.wait_with_output().unwrap();
        drop(end);
        let ended = Self::of(&output);
        assert!(!guard.join().unwrap(), "has not ended after {LONGEST:?}: {ended:?}");
        ended
    }

    pub fn of(output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or(0));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// The report's first table.
    pub fn report(&self) -> Value {
        let report: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr));
        report["tables"][0].clone()
    }

    /// A number of a leg: `("produce", "rows_flagged")`.
    pub fn number(&self, leg: &str, name: &str) -> i64 {
        self.report()[leg][name].as_i64().unwrap_or_else(|| panic!("no {leg}.{name} in {}", self.stdout))
    }

    /// Fails unless the run ended with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// Sends a signal, such as `TERM`, to a process.
pub fn signal(name: &str, process: &Child) {
    signal_process(name, process.id());
}

/// The same for a process that is known by its number.
pub fn signal_process(name: &str, process: u32) {
    // The shell's own: not every system has a program for it.
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status().unwrap();
    assert!(status.success());
}
