"""A Kafka Connect worker with Debezium's source and ClickHouse's sink, for `scripts/bench --peers`."""

import os
import pathlib
import subprocess
import time
import urllib.parse

import kafka
from common import CACHE, Failure, LIB, claimed_ports, free_port, indented_end

POM = LIB / "connect-pom.xml"
# ClickHouse's sink is not on Maven Central: the jars of a release of it are put here.
SINK = CACHE / "connect-plugins" / "clickhouse-kafka-connect"
# As Kafka's own script for a worker has it.
HEAP = ("-Xms256m", "-Xmx2g")
SLOT = "peers"
# What a worker that stands still may take.
PATIENCE = 300

WORKER = """
bootstrap.servers={brokers}
listeners=http://127.0.0.1:{port}
offset.storage.file.filename={folder}/offsets
plugin.path={plugins}
plugin.discovery=service_load
key.converter=org.apache.kafka.connect.json.JsonConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
key.converter.schemas.enable=false
value.converter.schemas.enable=false
"""

# Plain rows, as the other tools send them, and only those that come from now on.
SOURCE = """
name=source
connector.class=io.debezium.connector.postgresql.PostgresConnector
plugin.name=pgoutput
database.hostname=localhost
database.port={postgres.port}
database.user={postgres.username}
database.password={postgres.password}
database.dbname=app
topic.prefix={prefix}
table.include.list=public.{table}
slot.name={slot}
publication.name={slot}
publication.autocreate.mode=filtered
snapshot.mode=no_data
transforms=row
transforms.row.type=io.debezium.transforms.ExtractNewRecordState
"""

# The settings of docs/scale.md, without those of exactlyOnce, which needs ClickHouse's Keeper. ClickHouse's own compression, which
# scripts/servers does not speak, is of no use on one machine.
SINK_SETTINGS = """
name=sink
connector.class=com.clickhouse.kafka.connect.ClickHouseSinkConnector
topics={topic}
topic2TableMap={topic}={target}
hostname=localhost
port={clickhouse.port}
database=analytics
username={clickhouse.username}
password={clickhouse.password}
consumer.override.group.id={prefix}
consumer.override.isolation.level=read_committed
consumer.override.max.poll.records=20000
value.converter=org.apache.kafka.connect.storage.StringConverter
customInsertFormat=true
insertFormat=JSON
jdbcConnectionProperties=?compress=0
"""


def install():
    """The worker's jars; a Failure without those of the sink."""
    if not list(SINK.glob("*.jar")):
        raise Failure(f"ClickHouse's sink is not on Maven Central; put the jars of a release of it into {SINK}")
    kafka.jars(POM)


class Worker:
    """A worker that copies a table, with `wal_level = logical`, which only this tool needs, as long as it runs."""

    def __init__(self, bench, table, target):
        # Every worker has names of its own, and begins with an empty topic.
        self.prefix = f"connect-{time.time_ns()}"
        self.bench, self.table, self.target, self.topic = bench, table, target, f"{self.prefix}.public.{table}"
        self.folder = bench.dir / self.prefix
        self.process = None

    def __enter__(self):
        self.set_wal_level("= 'logical'")
        self.folder.mkdir()
        kafka.create_topics(int(self.bench.servers["SERVERS_KAFKA_PORT"]), {self.topic: 3})
        words = dict(
            brokers=self.bench.servers["PG2CH_KAFKA_BROKERS"], folder=self.folder, plugins=SINK.parent, prefix=self.prefix, slot=SLOT,
            table=self.table, topic=self.topic, target=self.target.split(".")[1],
            postgres=urllib.parse.urlsplit(self.bench.servers["SERVERS_POSTGRES_SUPERUSER_URL"]),
            clickhouse=urllib.parse.urlsplit(self.bench.servers["PG2CH_CLICKHOUSE_URL"]),
        )  # fmt: skip
        with claimed_ports() as claimed:
            words["port"] = free_port(claimed)
        files = {"worker": WORKER, "source": SOURCE, "sink": SINK_SETTINGS, "log4j2": kafka.LOGGING.replace("= info", "= warn")}
        for name, text in files.items():
            (self.folder / f"{name}.properties").write_text(text.format(**words) if name != "log4j2" else text)
        self.process = self.start()
        return self

    def start(self):
        path = lambda name: str(self.folder / f"{name}.properties")
        logging = f"-Dlog4j2.configurationFile={path('log4j2')}"
        main = "org.apache.kafka.connect.cli.ConnectStandalone"
        java = [kafka.java_program(), *HEAP, logging, "-cp", os.pathsep.join(kafka.jars(POM)), main]
        with open(self.folder / "log", "wb") as log:
            return subprocess.Popen([*java, path("worker"), path("source"), path("sink")], stdout=log, stderr=log)

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.superuser(f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{SLOT}'")
        self.superuser(f"DROP PUBLICATION IF EXISTS {SLOT}")
        self.set_wal_level(None)

    def superuser(self, sql):
        return self.bench.sh("psql", "-qAtX", self.bench.servers["SERVERS_POSTGRES_SUPERUSER_URL"], "-c", sql)

    def set_wal_level(self, level):
        self.superuser(f"ALTER SYSTEM SET wal_level {level}" if level else "ALTER SYSTEM RESET wal_level")
        self.bench.restart("postgres")

    def wait(self, what, reached):
        """Until it is so; a Failure with the end of the log if the worker dies first, or stands still."""
        deadline = time.monotonic() + PATIENCE
        while not reached():
            log = pathlib.Path(self.folder, "log").read_text(errors="replace")
            if "Task is being killed" in log or self.process.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"the worker has not {what}; the end of its log:\n{indented_end(log)}")
            time.sleep(0.05)

    def wait_for_slot(self):
        active = f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND active"
        self.wait("begun to read", lambda: self.superuser(active) == "1")

    def peak(self):
        """In MiB."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
