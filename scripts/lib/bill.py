#!/usr/bin/env python3
"""What a release is made of: `bill.py TARGET FOLDER` writes into FOLDER, for cargo's target TARGET,

    sbom.cdx.json             the bill of materials, CycloneDX 1.5
    THIRD-PARTY-LICENSES.txt  the licences of everything that is linked in

from `cargo metadata`, Cargo.lock and the crates' own files. PG2CH_LIBC_LICENSE names the C library's licence. A crate without a
licence file ends it with an error: somebody has to look.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

LICENCE = re.compile(r"(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE|UNLICENSE)", re.IGNORECASE)
# C sources that crates carry: crate → name, where its licences are, licence.
CARRIED = {
    "rdkafka-sys": ("librdkafka", "librdkafka", "BSD-2-Clause"),
    "zstd-sys": ("zstd", "zstd", "BSD-3-Clause"),
    "libz-sys": ("zlib", "src/zlib", "Zlib"),
    "openssl-src": ("openssl", "openssl", "Apache-2.0"),
}


def metadata(target):
    """What cargo knows of the packages, and of the features of a release."""
    asked = ["cargo", "metadata", "--locked", "--format-version=1", "--features=vendored-openssl"]
    return json.loads(subprocess.run([*asked, f"--filter-platform={target}"], check=True, stdout=subprocess.PIPE).stdout)


def linked(known):
    """The packages whose code is in the binary: what the program depends on, but no macros and no build scripts."""
    packages = {package["id"]: package for package in known["packages"]}
    nodes = {node["id"]: node for node in known["resolve"]["nodes"]}
    waiting, found = [known["resolve"]["root"]], {}
    while waiting:
        package = packages[waiting.pop()]
        if package["id"] in found or any("proc-macro" in target["kind"] for target in package["targets"]):
            continue
        found[package["id"]] = package
        for other in nodes[package["id"]]["deps"]:
            # A build script's dependency whose C source is compiled and linked.
            is_linked = any(kind["kind"] is None for kind in other["dep_kinds"])
            if is_linked or packages[other["pkg"]]["name"] in CARRIED:
                waiting.append(other["pkg"])
    return sorted(found.values(), key=lambda package: (package["name"], package["version"]))


def checksums():
    """Cargo.lock's checksums, by name and version."""
    text = pathlib.Path("Cargo.lock").read_text()
    entry = re.compile(r'name = "(.+)"\nversion = "(.+)"\nsource = .*\nchecksum = "(.+)"')
    return {(name, version): checksum for name, version, checksum in entry.findall(text)}


def carried_version(package, folder):
    """The version of a crate's C source: behind the `+` of the crate's, or in zlib's header."""
    _, _, version = package["version"].partition("+")
    if not version:
        version = re.search(r'ZLIB_VERSION "(.+)"', (folder / "zlib.h").read_text()).group(1)
    return re.sub("^zstd.", "", version)


def licences_in(folder):
    """The licence files of a folder, not of those below it."""
    return sorted(path for path in folder.iterdir() if path.is_file() and LICENCE.match(path.name))


def component(name, version, licence, purl, checksum=None):
    """An entry of the bill."""
    part = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    part["licenses"] = [{"expression": licence.replace("/", " OR ")}]
    if checksum:
        part["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return part


def sources(packages):
    """Name, version, licence, purl, checksum and licence files of everything that is linked in."""
    known, own = checksums(), None
    for package in packages:
        name, version, licence = package["name"], package["version"], package["license"]
        folder = pathlib.Path(package["manifest_path"]).parent
        if package["source"] is None:
            own = component(name, version, licence, f"pkg:cargo/{name}@{version}")
            continue
        files = licences_in(folder)
        if name in CARRIED:
            c_name, place, c_licence = CARRIED[name]
            c_version = carried_version(package, folder / place)
            c_files = licences_in(folder / place)
            yield component(c_name, c_version, c_licence, f"pkg:generic/{c_name}@{c_version}"), c_files
            # Of openssl-src nothing but OpenSSL itself is in the binary; rdkafka-sys keeps its licence with librdkafka's.
            files = files or c_files
        yield component(name, version, licence, f"pkg:cargo/{name}@{version}", known.get((name, version))), files
    compiler = subprocess.run(["rustc", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()[1]
    yield component("rust-std", compiler, "MIT OR Apache-2.0", f"pkg:generic/rust-std@{compiler}"), rust_licences()
    libc = pathlib.Path(os.environ["PG2CH_LIBC_LICENSE"])
    yield component("musl", os.environ["PG2CH_LIBC_VERSION"], "MIT", f"pkg:generic/musl@{os.environ['PG2CH_LIBC_VERSION']}"), [libc]
    yield own, []


def rust_licences():
    """The standard library's licences, where rustup has put them; the same two as ours."""
    root = subprocess.run(["rustc", "--print=sysroot"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    files = sorted(pathlib.Path(root, "share/doc/rust").glob("COPYRIGHT-library.html"))
    return files or [pathlib.Path("LICENSE-MIT"), pathlib.Path("LICENSE-APACHE")]


def main(target, folder):
    folder = pathlib.Path(folder)
    found = list(sources(linked(metadata(target))))
    without = [part["name"] for part, files in found[:-1] if not files]
    if without:
        sys.exit(f"no licence file: {', '.join(without)}")
    own, _ = found.pop()
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**own, "type": "application"}},
        "components": [part for part, _ in found],
    }
    (folder / "sbom.cdx.json").write_text(json.dumps(bill, indent=1) + "\n")
    text = ["What is linked into pg2ch, and under which licences.\n"]
    for part, files in found:
        text.append(f"{'=' * 100}\n{part['name']} {part['version']}: {part['licenses'][0]['expression']}\n")
        text += [f"--- {file.name}\n{plain(file)}" for file in files]
    (folder / "THIRD-PARTY-LICENSES.txt").write_text("\n".join(text))


def plain(file):
    """A licence's text; a page loses its tags."""
    text = file.read_text(encoding="utf-8", errors="replace")
    return re.sub(r"<[^>]+>", "", text) if file.suffix == ".html" else text


if __name__ == "__main__":
    main(*sys.argv[1:])
