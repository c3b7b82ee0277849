#!/usr/bin/env python3
"""Checks Kubernetes manifests: `manifests.py PG2CH FILE…`. Each document against the schemas of the API (three releases, unknown fields
refused), and the configuration in a ConfigMap by the program PG2CH itself. The schemas come from PyPI's kubernetes-validate."""

import pathlib
import subprocess
import sys
import tempfile
import venv

from common import CACHE, locked_cache

VALIDATOR = "kubernetes-validate==1.37.0"
RELEASES = ["1.31", "1.34", "1.37"]
# What is no part of Kubernetes itself.
FOREIGN = "monitoring.coreos.com/"


def installed():
    """A Python that has the validator."""
    folder = CACHE / VALIDATOR.replace("==", "-")
    with locked_cache():
        if not (folder / "done").exists():
            venv.create(folder, with_pip=True, clear=True)
            subprocess.run([folder / "bin/pip", "install", "--quiet", VALIDATOR], check=True)
            (folder / "done").touch()
    return folder / "bin/python"


def check(program, files):
    """Runs inside the validator's own Python."""
    import kubernetes_validate
    import yaml

    checked = 0
    for file in files:
        for document in yaml.safe_load_all(pathlib.Path(file).read_text()):
            if document["apiVersion"].startswith(FOREIGN):
                continue
            for release in RELEASES:
                kubernetes_validate.validate(document, release, strict=True)
                checked += 1
            for name, text in document.get("data", {}).items() if document["kind"] == "ConfigMap" else []:
                with tempfile.TemporaryDirectory() as folder:
                    accept(program, pathlib.Path(folder), name, text)
    print(f"{checked} checks")


def accept(program, folder, name, text):
    """The program takes the configuration, once its passwords are there."""
    for secret in ("postgres", "clickhouse"):
        (folder / secret).touch(mode=0o600)
        (folder / secret).write_text("secret\n")
        text = text.replace(f"/run/secrets/pg2ch/{secret}", str(folder / secret))
    (folder / name).write_text(text)
    subprocess.run([program, "config", "show", "--config", folder / name], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        check(sys.argv[2], sys.argv[3:])
    else:
        subprocess.run([installed(), __file__, "--inside", *sys.argv[1:]], check=True)
