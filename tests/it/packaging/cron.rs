//! The crontab entry in a real cron daemon: as the system user, with cron's bare environment.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::World;

/// A user id that no machine gives away.
const ID: u32 = 64999;

/// Runs cron on a copy of /etc, with mail kept in /run/mail; all of it is mounted for this process alone. $1 is the directory, $2 cron.
const START: &str = r#"set -e
mount --bind "$1/etc" /etc
mount --bind "$1/run" /run
mount -t tmpfs tmpfs /var/spool
mkdir -p /var/spool/cron/crontabs
mount -t tmpfs tmpfs /usr/sbin
printf '#!/bin/sh\ncat > /run/mail/$$.part && mv /run/mail/$$.part /run/mail/$$\n' > /usr/sbin/sendmail
chmod 755 /usr/sbin/sendmail
cp "$2" /usr/sbin/cron
cp "$3" /usr/sbin/pg2ch
exec /usr/sbin/cron -f"#;

struct Cron {
    process: Child,
    dir: PathBuf,
}

impl Cron {
    /// A directory with what cron will find in /etc and /run.
    fn prepare(world: &World) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("pg2ch-cron-{}", world.name));
        fs::create_dir_all(dir.join("run/mail")).unwrap();
        assert!(Command::new("cp").args(["-a", "/etc"]).arg(&dir).status().unwrap().success());
        let etc = dir.join("etc");
        for (file, line) in [("passwd", "pg2ch:x:64999:64999::/:/usr/sbin/nologin\n"), ("group", "pg2ch:x:64999:\n")] {
            let others: String = fs::read_to_string(etc.join(file)).unwrap();
            let others = others.lines().filter(|line| !line.starts_with("pg2ch:")).map(|line| format!("{line}\n"));
            fs::write(etc.join(file), others.collect::<String>() + line).unwrap();
        }
        fs::create_dir_all(etc.join("pam.d")).unwrap();
        fs::write(
            etc.join("pam.d/cron"),
            "auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n",
        )
        .unwrap();
        // Nothing else that this machine schedules.
        let _ = fs::remove_dir_all(etc.join("cron.d"));
        fs::create_dir(etc.join("cron.d")).unwrap();
        fs::write(etc.join("crontab"), "").unwrap();
        fs::create_dir_all(etc.join("pg2ch")).unwrap();
        for name in ["mail", "metrics"] {
            fs::create_dir_all(dir.join("run").join(name)).unwrap();
            fs::set_permissions(dir.join("run").join(name), fs::Permissions::from_mode(0o777)).unwrap();
        }
        dir
    }

    fn start(dir: PathBuf, program: &Path) -> Self {
        let process = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", START, "sh"])
            .args([&dir, program, Path::new(env!("CARGO_BIN_EXE_pg2ch"))])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, dir }
    }

    /// What cron has mailed.
    fn mail(&self) -> Vec<String> {
        let letters = fs::read_dir(self.dir.join("run/mail")).unwrap().map(|entry| entry.unwrap().path());
        letters.filter(|path| path.extension().is_none()).map(|path| fs::read_to_string(path).unwrap()).collect()
    }
}

impl Drop for Cron {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// An entry's file, as /etc/cron.d wants it.
fn entry(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join("etc/cron.d").join(name), text).unwrap();
}

/// A configuration as scripts/install leaves it: root's, and readable by the group pg2ch.
fn configuration(dir: &Path, name: &str, text: &str) {
    let file = dir.join("etc/pg2ch").join(name);
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    chown(&file, Some(0), Some(ID)).unwrap();
}

#[test]
fn cron_runs_the_entry_in_silence_and_mails_what_fails() {
    let program = std::env::var("CRON").unwrap_or_else(|_| "/usr/sbin/cron".to_owned());
    let mut world = World::new("cron");
    world.insert_rows(3);
    let is_root = fs::metadata(world.config()).unwrap().uid() == 0;
    if !is_root || !Path::new(&program).exists() {
        // scripts/test installs cron, and says so where this does not run.
        return;
    }
    let dir = Cron::prepare(&world);
    world.settings.insert("metrics", "textfile = \"/run/metrics/pg2ch.prom\"".to_owned());
    let text = fs::read_to_string(world.config()).unwrap();
    configuration(&dir, "pg2ch.toml", &text);
    configuration(&dir, "broken.toml", "[kafka]\nbroker = \"localhost:9092\"\n");
    let shipped = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/cron/pg2ch")).unwrap();
    let shipped = shipped.replace("/usr/bin/pg2ch", "/usr/sbin/pg2ch");
    entry(&dir, "pg2ch", &shipped);
    entry(&dir, "broken", &shipped.replace("/etc/pg2ch/pg2ch.toml", "/etc/pg2ch/broken.toml"));

    let cron = Cron::start(dir.clone(), Path::new(&program));
    let until = Instant::now() + Duration::from_secs(180);
    let metrics = dir.join("run/metrics/pg2ch.prom");
    while cron.mail().is_empty() || !metrics.exists() {
        assert!(Instant::now() < until, "metrics: {}, mail: {:?}", metrics.exists(), cron.mail());
        std::thread::sleep(Duration::from_millis(100));
    }
    let written = fs::read_to_string(&metrics).unwrap();
    assert!(
        written.lines().any(|line| line.starts_with("pg2ch_rows_flagged_total{") && line.ends_with(" 3")),
        "{written}"
    );
    assert_eq!(fs::metadata(&metrics).unwrap().uid(), ID);
    let mail = cron.mail();
    let of_the_broken = |letter: &&String| letter.contains("broken.toml");
    assert_eq!(mail.iter().find(|letter| !of_the_broken(letter)), None);
    let letter = mail.iter().find(of_the_broken).unwrap();
    assert!(letter.contains("To: root") && letter.contains("hint:") && letter.contains("`broker`"), "{letter}");
    drop(cron);
    assert_eq!(world.unsent(), 0);
}
