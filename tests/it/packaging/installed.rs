//! What surrounds the program: units, the installer, the Debian package.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every file below a directory, as a path from there.
fn files_below(directory: &Path) -> BTreeSet<String> {
    let (mut waiting, mut files) = (vec![directory.to_owned()], BTreeSet::new());
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                files.insert(path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    files
}

/// scripts/install in a directory of its own.
struct Installation(PathBuf);

impl Installation {
    fn new(name: &str) -> Self {
        let installation = Self(std::env::temp_dir().join(format!("pg2ch-{name}-{}", std::process::id())));
        installation.run(env!("CARGO_BIN_EXE_pg2ch"));
        installation
    }

    fn run(&self, argument: &str) {
        let output = self.installer(&[argument]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn installer(&self, arguments: &[&str]) -> Output {
        Command::new(root().join("scripts/install")).args(arguments).env("DESTDIR", &self.0).output().unwrap()
    }
}

impl Installation {
    fn document(&self, page: &str) -> PathBuf {
        self.0.join("usr/share/doc/pg2ch").join(page)
    }
}

/// The files that a page leads to: the page, and the file as the page names it.
fn links(page: &str) -> Vec<(String, String)> {
    let text = read(page);
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let files = targets.filter(|target| !target.is_empty() && !target.contains("://"));
    files.map(|target| (page.to_owned(), target.to_owned())).collect()
}

impl Drop for Installation {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_units_say_what_the_program_takes() {
    let service = read("packaging/systemd/pg2ch.service");
    let start = service.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/pg2ch ")).unwrap();
    let words = start.split_whitespace().chain(["--help"]);
    assert!(Command::new(env!("CARGO_BIN_EXE_pg2ch")).args(words).output().unwrap().status.success(), "{start}");
    assert!(service.contains("\nSuccessExitStatus=75\n"));
    // Only systemd itself can say whether it understands the rest.
    let Some(analyze) =
        ["/usr/bin/systemd-analyze", "/bin/systemd-analyze"].into_iter().find(|p| Path::new(p).exists())
    else {
        return;
    };
    let directory: PathBuf = std::env::temp_dir().join(format!("pg2ch-units-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let service = service.replace("/usr/bin/pg2ch", env!("CARGO_BIN_EXE_pg2ch"));
    fs::write(directory.join("pg2ch.service"), service).unwrap();
    fs::write(directory.join("pg2ch.timer"), read("packaging/systemd/pg2ch.timer")).unwrap();
    let units = [directory.join("pg2ch.service"), directory.join("pg2ch.timer")];
    let output = Command::new(analyze).args(["verify", "--man=no"]).args(&units).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    // 0 is a service that can do nothing to the rest of the machine, 10 one that can do everything.
    let score = Command::new(analyze)
        .args(["security", "--offline=true", "--no-pager", "--threshold=15"])
        .arg(directory.join("pg2ch.service"))
        .output()
        .unwrap();
    fs::remove_dir_all(&directory).unwrap();
    assert!(output.status.success() && !told.contains("pg2ch"), "{told}");
    assert!(score.status.success(), "{}", String::from_utf8_lossy(&score.stdout));
}

#[test]
fn the_installer_puts_everything_in_place_and_takes_it_away_again_but_the_configuration() {
    let installation = Installation::new("install");
    let programs = [
        "etc/pg2ch/pg2ch.toml",
        "usr/bin/pg2ch",
        "usr/lib/systemd/system/pg2ch.service",
        "usr/lib/systemd/system/pg2ch.timer",
        "usr/lib/sysusers.d/pg2ch.conf",
        "usr/share/bash-completion/completions/pg2ch",
        "usr/share/fish/vendor_completions.d/pg2ch.fish",
        "usr/share/man/man1/pg2ch.1",
        "usr/share/zsh/vendor-completions/_pg2ch",
    ];
    let installed = files_below(&installation.0);
    let (documents, others): (BTreeSet<_>, BTreeSet<_>) =
        installed.iter().cloned().partition(|file| file.starts_with("usr/share/doc/pg2ch/"));
    assert_eq!(others, programs.map(str::to_owned).into());
    // The manual page names this folder; its files lie to each other as in the repository.
    let pages = documents.iter().map(|file| file.strip_prefix("usr/share/doc/pg2ch/").unwrap());
    assert!(
        pages
            .clone()
            .all(|page| fs::read(root().join(page)).unwrap() == fs::read(installation.document(page)).unwrap())
    );
    for (page, target) in pages.filter(|page| page.ends_with(".md")).flat_map(links) {
        let file = installation.document(&page).with_file_name(&target);
        assert!(file.exists(), "{page} leads to {target}, which is not installed");
    }
    let empty = |file: &str| fs::metadata(installation.0.join(file)).unwrap().len() == 0;
    assert_eq!(installed.iter().find(|file| empty(file)), None);
    // Its passwords are for root and the group that the run has, and it is one that the program takes.
    let configuration = installation.0.join("etc/pg2ch/pg2ch.toml");
    assert_eq!(fs::metadata(&configuration).unwrap().permissions().mode() & 0o777, 0o640);
    let shown = Command::new(installation.0.join("usr/bin/pg2ch"))
        .args(["config", "show", "--config"])
        .arg(&configuration)
        .output()
        .unwrap();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    fs::write(&configuration, "# mine\n").unwrap();
    installation.run(env!("CARGO_BIN_EXE_pg2ch"));
    installation.run("--uninstall");
    assert_eq!(files_below(&installation.0), BTreeSet::from(["etc/pg2ch/pg2ch.toml".to_owned()]));
    assert_eq!(fs::read_to_string(&configuration).unwrap(), "# mine\n");
}

#[test]
fn the_installer_takes_no_option_or_other_program_for_the_binary() {
    let installation = Installation(std::env::temp_dir().join(format!("pg2ch-refused-{}", std::process::id())));
    for (arguments, code, told) in [
        (&["--help"][..], 0, "--uninstall"),
        (&["-h"], 0, "BINARY"),
        (&["--uninstal"], 64, "unknown option --uninstal"),
        (&["--uninstall", "now"], 64, "one argument"),
        (&["/bin/ls"], 66, "/bin/ls is not pg2ch"),
        (&["/nowhere/pg2ch"], 66, "/nowhere/pg2ch is not a program"),
        (&["/tmp"], 66, "/tmp is not a program"),
    ] {
        let output = installation.installer(arguments);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!((output.status.code(), text.contains(told)), (Some(code), true), "{arguments:?}: {text}");
        assert!(!installation.0.exists(), "{arguments:?}");
    }
}

#[test]
fn units_cron_and_sysusers_mean_the_same_user() {
    assert!(read("packaging/sysusers.d/pg2ch.conf").lines().any(|line| line.starts_with("u     pg2ch -")));
    assert!(read("packaging/systemd/pg2ch.service").contains("\nUser=pg2ch\n"));
    assert!(read("packaging/cron/pg2ch").lines().any(|line| line.starts_with("* * * * *  pg2ch  ")));
    let installer = read("scripts/install");
    assert!(installer.contains("systemd-sysusers ") && installer.contains("useradd --system --user-group "));
    for script in ["scripts/install", "packaging/debian/postinst"] {
        assert!(read(script).contains("chgrp pg2ch "), "{script}");
    }
    // cargo-deb's part of the package's script calls it.
    assert!(package()["depends"].as_str().unwrap().contains("systemd-standalone-sysusers | systemd"));
}

#[test]
fn each_alert_fires_on_what_it_is_for_and_on_nothing_else() {
    let tool = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".to_owned());
    let alerts = read("packaging/prometheus/alerts.yml");
    let cases = read("tests/it/packaging/alerts.yml");
    for name in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(cases.contains(&format!("alertname: {name}\n")), "{name} is tried nowhere");
    }
    // Only Prometheus' own tool can say what they do.
    if let Ok(output) =
        Command::new(tool).args(["test", "rules"]).arg(root().join("tests/it/packaging/alerts.yml")).output()
    {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// What Cargo.toml says about the Debian package.
fn package() -> toml::Table {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    manifest["package"]["metadata"]["deb"].as_table().unwrap().clone()
}

#[test]
fn the_debian_package_holds_what_the_installer_puts_in_place() {
    let (installation, package) = (Installation::new("package"), package());
    let mut packed = BTreeSet::new();
    for asset in package["assets"].as_array().unwrap() {
        let source = asset[0].as_str().unwrap();
        let pattern = source.strip_prefix("target/package/").expect(source);
        let (folder, name) = pattern.rsplit_once('/').unwrap();
        let (begin, end) = name.split_once('*').unwrap_or((name, ""));
        let files = fs::read_dir(installation.0.join(folder)).expect(source).map(|entry| entry.unwrap().path());
        for file in files.filter(|file| file.is_file()) {
            let name = file.file_name().unwrap().to_str().unwrap();
            let is_meant =
                if pattern.contains('*') { name.starts_with(begin) && name.ends_with(end) } else { name == begin };
            if is_meant {
                let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
                assert_eq!(asset[2].as_str().unwrap(), format!("{mode:o}"), "{source}");
                assert_eq!(asset[1].as_str().unwrap(), format!("{folder}/"), "{source}");
                packed.insert(format!("{folder}/{name}"));
            }
        }
    }
    // cargo-deb takes the units from their own directory.
    let units = root().join(package["systemd-units"]["unit-scripts"].as_str().unwrap());
    packed.extend(files_below(&units).into_iter().map(|unit| format!("usr/lib/systemd/system/{unit}")));
    assert_eq!(packed, files_below(&installation.0));
}

#[test]
fn the_licences_that_cargo_names_are_there() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let (named, package) = (manifest["package"]["license"].as_str().unwrap(), package());
    for (licence, file, words) in [
        ("MIT", "LICENSE-MIT", "Permission is hereby granted, free of charge"),
        ("Apache-2.0", "LICENSE-APACHE", "Version 2.0, January 2004"),
    ] {
        assert!(named.split(" OR ").any(|name| name == licence) && read(file).contains(words), "{licence}");
    }
    assert_eq!(named.split(" OR ").count(), 2);
    let holder = package["copyright"].as_str().unwrap().replace(", ", " ");
    assert!(read("LICENSE-MIT").contains(&holder), "{holder}");
    assert_eq!(package["license-file"][0].as_str(), Some("LICENSE-MIT"));
}

#[test]
fn debians_changelog_begins_with_this_version() {
    let package = package();
    let changelog = read(package["changelog"].as_str().unwrap());
    let first = changelog.lines().next().unwrap();
    assert!(first.starts_with(concat!("pg2ch (", env!("CARGO_PKG_VERSION"), "-1) ")), "{first}");
    let signed = format!("\n -- {}  ", package["maintainer"].as_str().unwrap());
    assert!(changelog.contains(&signed), "{signed:?}");
    let Ok(parsed) =
        Command::new("dpkg-parsechangelog").arg("-l").arg(root().join("packaging/debian/changelog")).output()
    else {
        return;
    };
    assert!(parsed.status.success() && parsed.stderr.is_empty(), "{}", String::from_utf8_lossy(&parsed.stderr));
}

#[test]
fn no_core_dump_holds_the_passwords() {
    let document = read("docs/configuration.md");
    let paragraph = document.split("\n\n").find(|paragraph| paragraph.contains("core dump")).unwrap();
    for line in ["LimitCORE=0", "ulimit -c 0"] {
        assert!(paragraph.contains(&format!("`{line}`")), "{paragraph}");
    }
    assert!(read("packaging/systemd/pg2ch.service").contains("\nLimitCORE=0\n"));
    assert!(read("packaging/cron/pg2ch").contains(" ulimit -c 0; "));
}

#[test]
fn the_debian_package_keeps_a_changed_configuration_and_starts_nothing() {
    let package = package();
    assert_eq!(package["conf-files"].as_array().unwrap(), &["/etc/pg2ch/pg2ch.toml".into()]);
    for switch in ["enable", "start", "restart-after-upgrade", "stop-on-upgrade"] {
        assert_eq!(package["systemd-units"][switch].as_bool(), Some(false), "{switch}");
    }
    let has_tools = ["cargo-deb", "dpkg-deb"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
    if !has_tools {
        return;
    }
    let made = Command::new(root().join("scripts/package"))
        .arg("--fast")
        .env("PG2CH_BINARY", env!("CARGO_BIN_EXE_pg2ch"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let package = root().join(String::from_utf8(made.stdout).unwrap().trim());
    let ask = |how: &str, rest: &[&str]| {
        let output = Command::new("dpkg-deb").arg(how).arg(&package).args(rest).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = ask("--contents", &[]);
    let configuration = listed.lines().find(|line| line.ends_with("./etc/pg2ch/pg2ch.toml")).unwrap();
    assert!(configuration.starts_with("-rw-r-----"), "{configuration}");
    assert!(listed.contains("./usr/share/man/man1/pg2ch.1.gz") && !listed.contains("timers.target.wants"), "{listed}");
    assert_eq!(ask("--info", &["conffiles"]), "/etc/pg2ch/pg2ch.toml\n");
    let after = ask("--info", &["postinst"]);
    assert!(!after.contains("deb-systemd-invoke") && after.contains("systemd-sysusers"), "{after}");
    assert!(ask("--info", &["prerm"]).contains("deb-systemd-invoke stop"));
    for file in ["changelog.Debian.gz", "copyright", "README.md", "docs/metrics.md", "packaging/cron/pg2ch"] {
        assert!(listed.contains(&format!("./usr/share/doc/pg2ch/{file}")), "{listed}");
    }
}

#[test]
fn the_image_is_built_from_all_that_the_program_is_made_of() {
    let (dockerfile, context) = (read("Dockerfile"), read(".dockerignore"));
    let copies = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY "));
    // A released binary is no part of the source.
    let copies = copies.filter(|line| !line.starts_with("--from") && !line.starts_with("target/image/"));
    assert!(context.lines().any(|line| line == "!target/image"));
    let copied: BTreeSet<&str> =
        copies.flat_map(|line| line.split(' ').filter(|word| !word.starts_with("./"))).collect();
    for name in &copied {
        assert!(context.lines().any(|line| line == format!("!{name}")), "{name} is kept out of the build");
    }
    // What cargo asks for by Cargo.toml, and what the sources include.
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    for (section, folder) in [("bench", "benches"), ("example", "examples"), ("test", "tests")] {
        assert!(!manifest.contains_key(section) || copied.contains(folder), "{folder}");
    }
    for file in files_below(&root().join("src")) {
        for included in read(&format!("src/{file}")).split("include_str!(\"").skip(1) {
            let path = root().join("src").join(&file).with_file_name(included.split('"').next().unwrap());
            let path = path.canonicalize().unwrap();
            let folder = path.strip_prefix(root().canonicalize().unwrap()).unwrap().iter().next().unwrap();
            assert!(copied.contains(folder.to_str().unwrap()), "{file} includes {}", path.display());
        }
    }
}
