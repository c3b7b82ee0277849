//! A password from where it is kept. One that may change is read again for each connection: a file that is replaced,
//! a command whose tokens live for minutes.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Secret;
use crate::error::{Error, Result};
use crate::sync::{bounded, spawn};

/// The most that is read of a file, or of what a command prints.
const LARGEST: u64 = 64 << 10;

/// What helps against a file of a secret that cannot be used.
pub(super) fn file_hint(secret: &str) -> String {
    format!("write {secret} into this file, alone on one line, and let pg2ch's user read it")
}

/// A password, or where it is to be had.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Known since the program started.
    Known(Secret),
    /// The file that holds it.
    File(PathBuf),
    /// The command that prints it, run without a shell.
    Command {
        /// Program and arguments. Never empty.
        words: Vec<String>,
        /// How long it may take.
        limit: Duration,
    },
}

impl Credential {
    /// A password that is known.
    #[must_use]
    pub fn known(password: String) -> Self {
        Self::Known(Secret::new(password))
    }

    /// The password as it is now.
    ///
    /// # Errors
    /// 78 if the file or what the command prints is no password, or the command does not exist; 69 if the command fails or takes
    /// too long. Nothing that it printed is in the error.
    pub fn take(&self) -> Result<Secret> {
        self.taken(one_line)
    }

    /// All of the text that is there, of any number of lines.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_text(&self) -> Result<Secret> {
        self.taken(any_lines)
    }

    fn taken(&self, shape: Shape) -> Result<Secret> {
        match self {
            Self::Known(secret) => Ok(secret.clone()),
            Self::File(path) => read_as(path, shape).map_err(|why| {
                let secret = "the password, secret or URL that it is for";
                Error::config(format!("cannot read the file {}", path.display()), why, file_hint(secret))
            }),
            Self::Command { words, limit } => printed(words, *limit, shape),
        }
    }
}

/// Where it is kept, for a message.
impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(_) => f.write_str("the configuration"),
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Command { words, .. } => write!(f, "the command {}", words.first().map_or("", String::as_str)),
        }
    }
}

impl From<Secret> for Credential {
    fn from(secret: Secret) -> Self {
        Self::Known(secret)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// The password in the file.
///
/// # Errors
/// What is wrong with the file, or with its text.
pub fn read(path: &Path) -> Result<Secret, String> {
    read_as(path, one_line)
}

fn read_as(path: &Path, shape: Shape) -> Result<Secret, String> {
    shape("it", &read_text(open(path)?)?)
}

/// Opens a file. A FIFO without a writer would never be open.
///
/// # Errors
/// What is wrong with it.
pub fn open(path: &Path) -> Result<File, String> {
    let metadata = path.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    File::open(path).map_err(|error| error.to_string())
}

/// Takes a secret out of a text, which the first argument names in an error.
type Shape = fn(&str, &str) -> Result<Secret, String>;

/// The password that stands alone on the one line of `text`; `what` names the text in an error.
fn one_line(what: &str, text: &str) -> Result<Secret, String> {
    let password = text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t));
    if password.is_empty() {
        return Err(format!("{what} is empty"));
    }
    if password.chars().any(|c| matches!(c, '\n' | '\r' | '\0')) {
        return Err(format!("{what} holds more than one line"));
    }
    Ok(Secret::new(password))
}

/// All of `text` but the white space around it.
fn any_lines(what: &str, text: &str) -> Result<Secret, String> {
    match text.trim() {
        "" => Err(format!("{what} is empty")),
        text => Ok(Secret::new(text)),
    }
}

/// A file's text.
///
/// # Errors
/// What is wrong with the file.
pub fn read_text(file: File) -> Result<String, String> {
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    text("it", bytes)
}

fn text(what: &str, bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| format!("{what} is not UTF-8"))
}

/// What a command prints. What it says on standard error is dropped: that may hold a secret as well.
fn printed(words: &[String], limit: Duration, shape: Shape) -> Result<Secret> {
    let program = words.first().map_or("", String::as_str);
    let what = || format!("cannot get a password from the command {program}");
    let spawned = Command::new(program)
        .args(words.get(1..).unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let hint = "name a program that pg2ch's user may run, by its full path; it is run without a shell";
    let mut child = spawned.map_err(|error| Error::config(what(), error, hint))?;
    let ended = watch(&mut child, limit);
    if ended.is_err() {
        // What it has started itself may live on; nobody waits for that.
        let _ = child.kill().and_then(|()| child.wait());
    }
    let output = ended.map_err(|why| {
        let hint =
            "run it by hand as pg2ch's user to see what it says, which is never logged; the next run resumes here";
        Error::unavailable(what(), why, hint)
    })?;
    text("its output", output)
        .and_then(|text| shape("its output", &text))
        .map_err(|why| Error::config(what(), why, "let it print the password alone, on one line of standard output"))
}

/// Waits for a command's output and its end, at most `limit`.
fn watch(child: &mut Child, limit: Duration) -> Result<Vec<u8>, String> {
    let until = Instant::now() + limit;
    let late = || format!("it did not end within {}", humantime::format_duration(limit));
    let stdout = child.stdout.take().ok_or("it has no standard output")?;
    let (out, output) = bounded(1);
    // Reading cannot be given up, the thread can.
    let reader = spawn("password", move || {
        let mut bytes = Vec::new();
        let read = stdout.take(LARGEST).read_to_end(&mut bytes);
        let _ = out.send(read.map(|_| bytes));
    });
    reader.map_err(|error| format!("no thread can be had: {error}"))?;
    let bytes = output.recv_timeout(limit).map_err(|_| late())?.map_err(|error| error.to_string())?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(bytes),
            Ok(Some(status)) => return Err(format!("it ended with {status}")),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => return Err(late()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;

    fn command(words: &[&str], limit: Duration) -> Result<String> {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Credential::Command { words, limit }.take().map(|secret| secret.reveal().to_owned())
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_command_is_run_without_a_shell_and_its_line_taken() {
        assert_eq!(command(&["/bin/echo", "$HOME;", "a b"], LONG).unwrap(), "$HOME; a b");
    }

    #[test]
    fn what_fails_is_told_without_its_output() {
        for (words, exit, why) in [
            (&["/bin/sh", "-c", "echo hunter2; echo hunter2 >&2; exit 3"][..], ExitCode::Unavailable, "exit status: 3"),
            (&["/bin/sh", "-c", "echo hunter2; echo hunter2"], ExitCode::Config, "more than one line"),
            (&["/bin/true"], ExitCode::Config, "its output is empty"),
            (&["/bin/sh", "-c", "echo hunter2 >&2"], ExitCode::Config, "its output is empty"),
            (&["/usr/bin/printf", "hunter2\\377"], ExitCode::Config, "its output is not UTF-8"),
            (&["/bin/sh", "-c", "kill -9 $$"], ExitCode::Unavailable, "signal: 9"),
            (&["/no/such/program"], ExitCode::Config, "No such file"),
        ] {
            let error = command(words, LONG).unwrap_err();
            assert_eq!(error.exit_code(), exit, "{error}");
            assert!(error.why().contains(why) && !format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        for script in ["sleep 60", "echo x; sleep 60", "exec 1>&-; sleep 60", "sleep 60 & exit 0"] {
            let begun = Instant::now();
            let error = command(&["/bin/sh", "-c", script], Duration::from_millis(300)).unwrap_err();
            assert!(error.why().contains("300ms") && begun.elapsed() < Duration::from_secs(10), "{script}: {error}");
        }
    }

    #[test]
    fn a_file_is_read_anew() {
        let path = std::env::temp_dir().join(format!("pg2ch-credential-{}", std::process::id()));
        let credential = Credential::File(path.clone());
        for password in ["first", "second"] {
            std::fs::write(&path, format!("{password}\n")).unwrap();
            assert_eq!(credential.take().unwrap().reveal(), password);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(credential.take().unwrap_err().exit_code(), ExitCode::Config);
    }
}
