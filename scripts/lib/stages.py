"""`scripts/bench --stages`: the CPU time that each thread and process takes for a row: what more cores would have to carry."""

import contextlib
import os
import pathlib
import re
import statistics
import threading

from common import stat_of

HEAD = ["leg", "who", "µs a row"]
TICK = os.sysconf("SC_CLK_TCK")
# What takes less of a row stands in the last line of its leg.
LEAST = 0.03


def cpu(folder):
    """User and system seconds of a process or a thread."""
    return sum(map(int, stat_of(folder)[11:13])) / TICK


class Watch(threading.Thread):
    """Looks at pg2ch's threads and the servers' processes fifty times a second: what they take in their last moment is not seen."""

    def __init__(self, servers):
        super().__init__()
        self.pids = {name: servers[f"SERVERS_{name.upper()}_PID"] for name in ("postgres", "kafka", "clickhouse")}
        self.first, self.last, self.ended = {}, {}, threading.Event()
        # Who is there already has worked for others.
        self.look()
        self.first = dict(self.last)

    def run(self):
        while not self.ended.wait(0.02):
            self.look()

    def look(self):
        for who, folder in [*self.of_servers(), *self.of_pg2ch()]:
            with contextlib.suppress(OSError):
                self.last[who, folder] = cpu(folder)

    def of_servers(self):
        for name in ("kafka", "clickhouse"):
            yield name, f"/proc/{self.pids[name]}"
        for child in children(self.pids["postgres"]):
            # One that ends has no title any more.
            if title := of_postgres(child):
                yield f"postgres: {title}", f"/proc/{child}"

    def of_pg2ch(self):
        for pid in children(os.getpid()):
            for task in sorted(pathlib.Path(f"/proc/{pid}/task").glob("*")):
                name = read(task / "comm").strip()
                if name:
                    yield f"pg2ch: {re.sub(r'[0-9]+$', '', name)}", task

    def spent(self):
        """Seconds by name."""
        self.ended.set()
        self.join()
        found = {}
        for key, now in self.last.items():
            found[key[0]] = found.get(key[0], 0) + now - self.first.get(key, 0)
        return found


def read(path):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def children(pid):
    return [child for task in pathlib.Path(f"/proc/{pid}/task").glob("*") for child in read(task / "children").split()]


def of_postgres(pid):
    """What a process of PostgreSQL is: `walwriter`, or a session by its number."""
    title = read(f"/proc/{pid}/cmdline").split("\0")[0].removeprefix("postgres: ")
    return f"session {pid}" if "(" in title or "[" in title else title.strip()


def watched(bench, *words, config):
    watch = Watch(bench.servers)
    watch.start()
    run = bench.run(*words, config=config)
    return sessions_in_order(watch.spent()) | {"whole run": run["seconds"]}


def sessions_in_order(spent):
    """The sessions by what they take: their numbers differ from run to run."""
    numbered = sorted((who for who in spent if "session" in who), key=spent.get, reverse=True)
    names = {who: f"postgres: session {place}" for place, who in enumerate(numbered, 1)}
    return {names.get(who, who): seconds for who, seconds in spent.items()}


def measure(bench, rounds, rows):
    name, path = bench.table(rows)
    found = {"produce": [], "consume": []}
    for number in range(rounds):
        bench.unflag(name)
        found["produce"].append(watched(bench, "produce", config=path))
        bench.configure(path, name, f"g{number}")
        bench.clickhouse(f"TRUNCATE TABLE analytics.{name}")
        found["consume"].append(watched(bench, "consume", "--max-rows", str(rows), config=path))
        print(f"round {number + 1} of {rounds}", flush=True)
    bench.drop(name)
    return [cells for leg, runs in found.items() for cells in lines(leg, runs, rows)]


def lines(leg, runs, rows):
    names = {who for run in runs for who in run}
    cost = {who: statistics.median(run.get(who, 0) for run in runs) / rows * 1e6 for who in names}
    whole = cost.pop("whole run")
    yield [leg, "the clock", f"{whole:.2f}"]
    shown = sorted((who for who in cost if cost[who] >= LEAST), key=cost.get, reverse=True)
    yield from ([leg, who, f"{cost[who]:.2f}"] for who in shown)
    yield [leg, "all others", f"{sum(each for each in cost.values() if each < LEAST):.2f}"]
