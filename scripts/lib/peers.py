"""`scripts/bench --peers`: the same rows moved by pg2ch and by other tools, in turn, on the same servers."""

import collections
import contextlib
import os
import statistics
import textwrap
import time
import urllib.parse
import urllib.request

import connect
import kafka
from common import LIB, Failure, process_table, process_tree, python_with, stat_of

# What each lets be had, or a Failure; how it moves the rows; what it leaves out.
Tool = collections.namedtuple("Tool", "name prepare move without")
HEAD = ["", "rows/s", "time beside pg2ch", "CPU, s", "servers' CPU, s", "peak MiB", "what it leaves out"]
COLUMNS = "user_id, event_type, event_time, payload"
PAIR = ["psycopg2-binary==2.9.13", "confluent-kafka==2.16.1"]
# The rows of a target, whatever copies and versions of them it has.
CONTENT = """sumDistinctIf(cityHash64(toInt64(id), toInt64(user_id), event_type, toString(assumeNotNull(event_time)),
    ifNull(payload, '')), id > 0)"""
# Rows that a worker moves before its time is taken: one that runs all day has its code compiled.
FIRST = 20_000


def python(packages):
    return python_with("-".join(package.replace("==", "-") for package in packages), packages)


def pg2ch(bench, name, path, target):
    return measured(bench, lambda: bench.run("--once", config=path))


def pair(bench, name, path, target):
    empty(bench, name, target)
    kafka.create_topics(int(bench.servers["SERVERS_KAFKA_PORT"]), {f"{name}_pair": 3})
    brokers, script = bench.servers["PG2CH_KAFKA_BROKERS"], [python(PAIR), LIB / "peer.py"]
    produce = [*script, "produce", bench.servers["PG2CH_POSTGRES_URL"], brokers, name, f"{name}_pair"]
    consume = [*script, "consume", brokers, bench.servers["PG2CH_CLICKHOUSE_URL"], f"{name}_pair", target]
    return measured(bench, lambda: one_after_the_other(bench.timed(produce), bench.timed(consume)))


def one_after_the_other(*runs):
    total = lambda key: sum(run[key] for run in runs)
    return {"seconds": total("seconds"), "cpu": total("cpu"), "mib": max(run["mib"] for run in runs)}


def direct(tool, version):
    packages = [f"{tool}=={version}"]

    def move(bench, name, path, target):
        urls = [bench.servers["PG2CH_POSTGRES_URL"], bench.servers["PG2CH_CLICKHOUSE_URL"]]
        words = [python(packages), LIB / "peer.py", "copy", tool, *urls, name, target]
        return measured(bench, lambda: bench.timed(words, {"RUST_LOG": "warn"}))

    return Tool(f"{tool} {version}, no topic", lambda: python(packages), move, "topic and flags; each run copies the whole table")


def with_connect(bench, name, path, target):
    """From the commit of the rows until ClickHouse has them all; the worker runs already, and has moved a few rows."""
    empty(bench, name, target)
    source = f"{name}_connect"
    bench.psql(
        f"DROP TABLE IF EXISTS {source}",
        f"CREATE TABLE {source} AS SELECT id, {COLUMNS} FROM {name} LIMIT 0",
        f"ALTER TABLE {source} ADD PRIMARY KEY (id)",
    )
    insert = lambda key, limit="": bench.psql(f"INSERT INTO {source} SELECT {key}, {COLUMNS} FROM {name} {limit}")
    rows = lambda: int(bench.psql(f"SELECT count(*) FROM {source}"))
    with connect.Worker(bench, source, target) as worker:

        def until_copied():
            wanted, begun, before = rows(), time.monotonic(), cpu(worker.process.pid)
            worker.wait("copied the rows", lambda: number_of(bench, target) >= wanted)
            return {"seconds": time.monotonic() - begun, "cpu": cpu(worker.process.pid) - before, "mib": worker.peak()}

        worker.wait_for_slot()
        insert("-id", f"LIMIT {FIRST}")
        until_copied()
        insert("id")
        return measured(bench, until_copied)


def empty(bench, name, target):
    """A target like pg2ch's, without rows."""
    bench.clickhouse(f"DROP TABLE IF EXISTS {target} SYNC")
    bench.clickhouse(f"CREATE TABLE {target} AS analytics.{name}")


def number_of(bench, target, what="count()"):
    """Without a process of its own, which would take its share of the CPU each time."""
    address = urllib.parse.urlsplit(bench.servers["PG2CH_CLICKHOUSE_URL"])
    headers = {"X-ClickHouse-User": address.username, "X-ClickHouse-Key": address.password}
    url = f"http://{address.hostname}:{address.port}"
    with urllib.request.urlopen(urllib.request.Request(url, f"SELECT {what} FROM {target}".encode(), headers)) as answer:
        return int(answer.read())


def cpu(root):
    """The CPU seconds of a process, of all that it has started, and of those among them that have ended."""
    ticks = 0
    for pid in process_tree(root, process_table()):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, stat_of(f"/proc/{pid}")[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measured(bench, move):
    """What a tool's run took, and the CPU seconds of the three servers meanwhile."""
    servers = lambda: sum(cpu(int(file.read_text().split()[0])) for file in (bench.dir / "servers").glob("*.pid"))
    before = servers()
    return move() | {"servers": servers() - before}


TOOLS = [
    Tool("pg2ch --once", lambda: None, pg2ch, ""),
    Tool("Python pair", lambda: python(PAIR), pair, "a kill leaves duplicates, in the topic and in ClickHouse"),
    direct("etlhouse", "0.2.0"),
    direct("quickhouse", "0.21.0"),
    Tool("Debezium, ClickHouse's sink", connect.install, with_connect, "flags; a kill leaves duplicates; the worker's start is not counted"),
]


def measure(bench, rounds, rows):
    """Every tool in turn, round after round; each one's runs."""
    found = {tool: [] for tool in TOOLS if can_be_had(tool)}
    name, path = bench.table(rows)
    for number in range(rounds):
        for place, tool in enumerate(list(found)):
            target = f"analytics.{name}_{place}" if place else f"analytics.{name}"
            bench.unflag(name)
            run = tool.move(bench, name, path, target)
            if number_of(bench, target, CONTENT) != number_of(bench, f"analytics.{name}", CONTENT):
                raise Failure(f"{tool.name} has brought other rows than pg2ch")
            print(number, tool.name, *(f"{key} {run[key]:.2f}" for key in ("seconds", "cpu", "servers", "mib")), flush=True)
            found[tool].append(run)
    return found


def can_be_had(tool):
    try:
        tool.prepare()
    except Failure as failure:
        print(f"without {tool.name}: {textwrap.shorten(str(failure), 500)}", flush=True)
        return False
    return True


def medians(runs, rows):
    """What the table and the chart show of a tool."""
    median = lambda key: statistics.median(run[key] for run in runs)
    return {key: median(key) for key in ("seconds", "cpu", "servers", "mib")} | {"rate": rows / median("seconds")}


def lines(found, rows):
    """A line for each tool. How long it takes beside pg2ch is the median of the rounds' own ratios."""
    ours = [run["seconds"] for run in next(iter(found.values()))]
    for tool, runs in found.items():
        shown = medians(runs, rows)
        beside = statistics.median(run["seconds"] / own for run, own in zip(runs, ours))
        cells = [f"{shown['rate']:,.0f}", f"{beside:.2f}", f"{shown['cpu']:.2f}", f"{shown['servers']:.2f}", f"{shown['mib']:.0f}"]
        yield [tool.name, *cells, tool.without]
