"""`scripts/bench --quick`: this build of pg2ch beside another, in turn on the same servers."""

import statistics

# Runs as short as these are repeated in each round.
SHORT = 5


def legs(bench, name, path, environment=None, times=1):
    """Each kind of run, on a table that is vacuumed before: dead entries of an index cost as much as a trip."""
    run = lambda *words: bench.run(*words, config=path, environment=environment)
    bench.unflag(name)
    found = {"produce": run("produce"), "consume": run("consume")}
    bench.psql(f"VACUUM {name}")
    found["idle run"] = middle(run("--once") for _ in range(times))
    found["one new row"] = middle(one_row(bench, name, run) for _ in range(times))
    return found


def one_row(bench, name, run):
    bench.psql(f"INSERT INTO {name} SELECT max(id) + 1, 1, 'login', now(), NULL, FALSE FROM {name}")
    return run("--once")


def middle(runs):
    """The one of them that took the median time."""
    runs = sorted(runs, key=lambda run: run["seconds"])
    return runs[len(runs) // 2]


def measure(bench, rounds, rows, programs):
    """A line for each kind of run, of two programs. Every other round begins with the second one."""
    name, path = bench.table(rows)
    bench.run("--once", config=path)
    found = []
    for number in range(rounds):
        turn = {}
        for program in list(programs)[:: -1 if number % 2 else 1]:
            bench.pg2ch = programs[program]
            turn[program] = legs(bench, name, path, times=SHORT)
        found.append(turn)
        print(f"round {number + 1} of {rounds}", flush=True)
    bench.drop(name)
    return [line(leg, [[turn[program][leg] for program in programs] for turn in found]) for leg in turn[program]]


def line(leg, pairs):
    """Both medians, the ratio of each round (its median, the lowest, the highest), both CPU times and peaks."""
    both = lambda key, form: " and ".join(f"{statistics.median(run[key] for run in runs):{form}}" for runs in zip(*pairs))
    ratios = [this["seconds"] / other["seconds"] for this, other in pairs]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
    return f"{leg:12} {both('seconds', '.3f')} s, ratio {ratio}; CPU {both('cpu', '.2f')} s; peak {both('mib', '.0f')} MiB"
