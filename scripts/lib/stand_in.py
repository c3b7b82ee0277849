#!/usr/bin/env python3
"""Stand-ins for the images that docker-compose.yml names, for scripts/test-compose.

    stand_in.py root                                        on this machine: make the root that the three share, print its path
    stand_in.py postgres|kafka|clickhouse [COMMAND...]      in a container: become that server

They take from the environment, and from /docker-entrypoint-initdb.d, what docker-compose.yml gives the real ones: user, password,
database, every KAFKA_ setting. As with those, a server that loads SQL files at its first start is not to be reached from outside
until it has. What is in them is Debian's PostgreSQL, Kafka's jars and chdb, as scripts/servers has them.
"""

import contextlib
import glob
import hashlib
import os
import pathlib
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

INITIAL = pathlib.Path("/docker-entrypoint-initdb.d")
HOME = pathlib.Path("/stand-in")
RELEASE = "bookworm"
PYTHON = "3.11"
DEBIAN = ["hostname", "openjdk-17-jre-headless", "postgresql", "python3", "wget"]


def root():
    """Debian with the servers' programs, as one tar file in the cache: its path. Made on first use, which takes minutes."""
    from clickhouse import PACKAGES
    from common import CACHE, locked_cache
    from kafka import POM, Kafka

    recipe = repr((RELEASE, PYTHON, DEBIAN, PACKAGES, POM.read_bytes()))
    file = CACHE / f"stand-in-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.tar"
    if not file.exists():
        print("making the stand-ins' root", file=sys.stderr, flush=True)
        kafka = Kafka(CACHE, {})
        with contextlib.redirect_stdout(sys.stderr):
            kafka.install()
        with locked_cache(), tempfile.TemporaryDirectory(dir=CACHE) as folder:
            make(pathlib.Path(folder, "root"), kafka.libraries(), PACKAGES)
            subprocess.run(["tar", "-C", f"{folder}/root", "-cf", f"{folder}/root.tar", "."], check=True)
            os.replace(f"{folder}/root.tar", file)
    return file


def make(root, jars, packages):
    from common import run

    run(["debootstrap", "--variant=minbase", f"--include={','.join(DEBIAN)}", RELEASE, root])
    for part in ("var/cache/apt/archives", "var/lib/apt/lists", "var/lib/postgresql", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(root / part)
    home = root / HOME.relative_to("/")
    wheels = ["--no-deps", "--no-compile", "--only-binary=:all:", "--python-version", PYTHON, "--target", home / "python"]
    venv = root.parent / "venv"
    run([sys.executable, "-m", "venv", venv])
    run([venv / "bin/pip", "install", "-q", "--no-cache-dir", *wheels, *packages])
    shutil.copytree(jars, home / "kafka", ignore=shutil.ignore_patterns("classes-*"))
    topics = root / "opt/kafka/bin/kafka-topics.sh"
    topics.parent.mkdir(parents=True)
    quick = "-Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"
    topics.write_text(f"#!/bin/sh\nexec java {quick} -cp '{HOME}/kafka/*' org.apache.kafka.tools.TopicCommand \"$@\"\n")
    topics.chmod(0o755)
    (root / "var/lib/clickhouse").mkdir()
    # As in the real image, whose user this is.
    (root / "var/lib/kafka/data").mkdir(parents=True)
    for path in ("var/lib/kafka", "var/lib/kafka/data"):
        os.chown(root / path, 1000, 1000)


def call(command, **options):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, **options)


def postgres(command):
    user, password = os.environ["POSTGRES_USER"], os.environ["POSTGRES_PASSWORD"]
    database = os.environ.get("POSTGRES_DB", user)
    data = pathlib.Path("/var/lib/postgresql/data")
    account = pwd.getpwnam("postgres")
    for folder in (data, pathlib.Path("/var/run/postgresql")):
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, account.pw_uid, account.pw_gid)
    os.environ |= {"PGDATA": str(data), "PATH": f"{glob.glob('/usr/lib/postgresql/*/bin')[0]}:{os.environ['PATH']}"}
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    if not (data / "PG_VERSION").exists():
        secret = pathlib.Path("/tmp/password")
        secret.write_text(password)
        call(["initdb", "-U", user, f"--pwfile={secret}", "--auth-local=trust", "--auth-host=scram-sha-256", "-E", "UTF8", "--no-sync"])
        secret.unlink()
        with open(data / "pg_hba.conf", "a") as access:
            access.write("host all all all scram-sha-256\n")
        with open(data / "postgresql.conf", "a") as settings:
            settings.write("listen_addresses = '*'\n")
        call(["pg_ctl", "-w", "-o", "-c listen_addresses=''", "start"])
        client = ["psql", "-X", "-v", "ON_ERROR_STOP=1", "-U", user]
        if database != "postgres":
            call([*client, "-d", "postgres", "-c", f'CREATE DATABASE "{database}"'])
        for file in sorted(INITIAL.glob("*.sql")):
            call([*client, "-d", database, "-f", file])
        call(["pg_ctl", "-w", "-m", "fast", "stop"])
    command = command or ["postgres"]
    os.execvp(command[0], command)


def kafka(_):
    settings = pathlib.Path("/tmp/server.properties")
    names = sorted(name for name in os.environ if name.startswith("KAFKA_"))
    lines = (f"{name.removeprefix('KAFKA_').lower().replace('_', '.')}={os.environ[name]}\n" for name in names)
    settings.write_text("".join(lines))
    java = ["java", "-Xms256m", "-Xmx256m", "-XX:+UseSerialGC", "-cp", f"{HOME}/kafka/*"]
    if not glob.glob(f"{os.environ['KAFKA_LOG_DIRS']}/meta.properties"):
        call([*java, "kafka.tools.StorageTool", "format", "-t", "pg2ch-stand-in-00000000", "-c", settings])
    os.execvp("java", [*java, "kafka.Kafka", str(settings)])


def clickhouse(_):
    from clickhouse import statements

    data = "/var/lib/clickhouse"
    front = [sys.executable, f"{HOME}/clickhouse_front.py", "--data", data, "--port", "8123"]
    if not os.listdir(data):
        server = subprocess.Popen([*front, "--listen", "127.0.0.1"])
        for _ in range(300):
            try:
                urllib.request.urlopen("http://127.0.0.1:8123/ping", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        headers = {"X-ClickHouse-User": os.environ["CLICKHOUSE_USER"], "X-ClickHouse-Key": os.environ["CLICKHOUSE_PASSWORD"]}
        for file in sorted(INITIAL.glob("*.sql")):
            for statement in statements(file):
                request = urllib.request.Request("http://127.0.0.1:8123/", statement.encode(), headers)
                urllib.request.urlopen(request, timeout=30)
        server.terminate()
        server.wait()
    os.execv(front[0], [*front, "--listen", "0.0.0.0"])


def main():
    kind, *rest = sys.argv[1:]
    if kind == "root":
        print(root())
    else:
        {"postgres": postgres, "kafka": kafka, "clickhouse": clickhouse}[kind](rest)


if __name__ == "__main__":
    main()
