"""`scripts/bench --far`: small runs and a backlog with the servers a network away."""

import pathlib
import statistics
import subprocess
import sys

import quick

RELAY = pathlib.Path(__file__).resolve().parent / "relay.py"
# Milliseconds that a round trip takes.
TRIPS = [0, 2, 10, 40]
LEGS = ["idle run", "one new row", "produce", "consume"]


def head(rows):
    return ["round trip", "program", "idle run", "one new row", f"{rows:,} rows: produce", "consume"]


class Network:
    """Relays in front of all three servers, and the servers as a client behind them sees them."""

    def __init__(self, servers):
        port = lambda name: int(servers[f"SERVERS_{name}_PORT"])
        listens = {"POSTGRES": port("KAFKA_PROXY_2"), "CLICKHOUSE": port("KAFKA_PROXY_3")}
        pairs = {port("KAFKA_PROXY_1"): port("KAFKA_PROXIED_1")}
        pairs |= {listen: port(name) for name, listen in listens.items()}
        self.servers = {"PG2CH_KAFKA_BROKERS": f"localhost:{port('KAFKA_PROXY_1')}"}
        for name, listen in listens.items():
            url = servers[f"PG2CH_{name}_URL"]
            self.servers[f"PG2CH_{name}_URL"] = url.replace(f":{port(name)}", f":{listen}")
        words = [sys.executable, RELAY, *(f"{listen}={upstream}" for listen, upstream in pairs.items())]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def take(self, trip):
        """From now on a round trip takes this many milliseconds."""
        self.process.stdin.write(f"{trip / 2000}\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != "ok\n":
            sys.exit("the relays have ended")

    def end(self):
        self.process.stdin.close()
        self.process.wait(10)


def measure(bench, rounds, rows, programs):
    """Every program at every distance in turn, round after round; a line for each of both, with medians."""
    name, path = bench.table(rows)
    network = Network(bench.servers)
    found = {(trip, program): [] for trip in TRIPS for program in programs}
    try:
        bench.run("--once", config=path)
        for number in range(rounds):
            for trip, program in found:
                bench.pg2ch = programs[program]
                network.take(trip)
                once = {leg: run["seconds"] for leg, run in quick.legs(bench, name, path, network.servers).items()}
                found[trip, program].append(once)
                print(number, trip, program, *(f"{leg} {once[leg]:.3f}" for leg in LEGS), flush=True)
    finally:
        network.end()
    bench.drop(name)
    median = lambda trip, program, leg: statistics.median(run[leg] for run in found[trip, program])
    return [cells(trip, program, lambda at, leg, program=program: median(at, program, leg)) for trip, program in found]


def cells(trip, program, median):
    """A line of the table. A run's time beyond that at no distance, by the trip, is how many trips it has waited for."""
    shown = [f"{trip} ms" if trip else "none", program]
    for leg in LEGS:
        time = f"{median(trip, leg):.3f} s"
        trips = f" ({(median(trip, leg) - median(0, leg)) / trip * 1000:.0f})" if trip and leg in LEGS[:2] else ""
        shown.append(time + trips)
    return shown
