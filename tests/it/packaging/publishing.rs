//! What is published, and where it runs: the workflows, the image, the manifests.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const WORKFLOWS: [&str; 2] = [".github/workflows/ci.yml", ".github/workflows/release.yml"];

#[test]
fn each_step_of_a_workflow_is_a_command_that_there_is() {
    let mut steps = 0;
    for workflow in WORKFLOWS {
        for line in read(workflow).lines() {
            let Some(step) = line.trim_start().strip_prefix("- run: ") else { continue };
            steps += 1;
            let parses = Command::new("bash").args(["-n", "-c", step]).status().unwrap();
            assert!(parses.success(), "{step}");
            let program = step.split_whitespace().next().unwrap();
            if program.contains('/') {
                let mode =
                    fs::metadata(root().join(program)).unwrap_or_else(|e| panic!("{program}: {e}")).permissions();
                assert_ne!(mode.mode() & 0o111, 0, "{program}");
            }
        }
    }
    assert!(steps > 10, "{steps}");
}

#[test]
fn actionlint_has_nothing_against_the_workflows() {
    // From Go's modules: `go install github.com/rhysd/actionlint/cmd/actionlint@latest`.
    let home = std::env::var("HOME").unwrap_or_default();
    let found = ["actionlint".to_owned(), format!("{home}/go/bin/actionlint")];
    let found = found.iter().find(|program| Command::new(program).arg("-version").output().is_ok());
    let Some(actionlint) = found else { return eprintln!("skipped: there is no actionlint") };
    let output = Command::new(actionlint).args(WORKFLOWS).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_tag_that_is_not_the_version_is_not_released() {
    let asked = |tag: &str| {
        let output = Command::new(root().join(".github/tag-is-version")).arg(tag).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (taken, why) = asked("v99.0.0");
    assert!(!taken && why.contains("the tag is v99.0.0"), "{why}");
    // Between two releases the changelog's heading is missing, and nothing else.
    let (taken, why) = asked(concat!("v", env!("CARGO_PKG_VERSION")));
    assert!(taken || why.starts_with("CHANGELOG.md has no heading"), "{why}");
}

/// The API's schemas for several releases of Kubernetes, and the configuration by the program itself.
#[test]
fn the_manifests_are_what_the_api_takes() {
    let checked = |file: &Path| {
        let mut command = Command::new(root().join("scripts/lib/manifests.py"));
        let output = command.arg(env!("CARGO_BIN_EXE_pg2ch")).arg(file).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let manifest = "packaging/kubernetes/pg2ch.yaml";
    let (valid, why) = checked(&root().join(manifest));
    assert!(valid, "{why}");
    assert!(checked(&root().join("packaging/kubernetes/alerts.yaml")).0);
    let broken = std::env::temp_dir().join(format!("pg2ch-manifest-{}.yaml", std::process::id()));
    for (from, to, told) in [
        ("concurrencyPolicy:", "concurencyPolicy:", "concurencyPolicy"),
        ("defaultMode: 0440", "defaultMode: \"0440\"", "0440"),
        ("    [kafka]", "    [kafak]", "kafak"),
    ] {
        fs::write(&broken, read(manifest).replace(from, to)).unwrap();
        let (valid, why) = checked(&broken);
        assert!(!valid && why.contains(told), "{from}: {why}");
    }
    fs::remove_file(broken).unwrap();
}

#[test]
fn a_job_in_the_cluster_or_in_compose_cannot_meet_itself_and_has_time_to_end() {
    let manifest = read("packaging/kubernetes/pg2ch.yaml");
    for line in [
        "concurrencyPolicy: Forbid",
        "terminationGracePeriodSeconds: 180",
        "runAsNonRoot: true",
        "readOnlyRootFilesystem: true",
        "backoffLimit: 0",
    ] {
        assert!(manifest.lines().any(|other| other.trim() == line), "{line}");
    }
    let compose = read("docker-compose.yml");
    assert!(compose.contains("stop_grace_period: 3m") && compose.contains("read_only: true"));
    // An engine that may not raise a limit, as a rootless one, starts nothing that asks for it.
    assert!(!compose.contains("ulimits"));
}

#[test]
fn the_image_holds_the_binary_and_the_authorities_and_is_nobodys() {
    let dockerfile = read("Dockerfile");
    let last = dockerfile.rsplit("\nFROM ").next().unwrap();
    let lines: Vec<_> = last.lines().filter(|line| !line.starts_with('#')).collect();
    let copied = lines.iter().filter(|line| line.starts_with("COPY --from=")).count();
    assert_eq!((lines[0], copied), ("scratch", 2), "{last}");
    assert!(lines.contains(&"USER 65534:65534") && lines.iter().all(|line| !line.starts_with("RUN")), "{last}");
}
