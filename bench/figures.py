"""Compute figures from measurements, and write them as Markdown tables. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

# sdiag's own question, which nobody would ask but for the measurement.
OWN_RPC = "REQUEST_STATS_INFO"
MB = 1_000_000


def quantile(values: Sequence[float], part: float) -> float:
    """Return the smallest of ``values`` that ``part`` (0 to 1) of them don't exceed, or nan."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else math.nan


def rpc_count(sdiag: str) -> int:
    """Return how many RPCs slurmctld has answered by what `sdiag` prints, without those of `sdiag`."""
    by_type = sdiag.partition("by message type")[2].partition("Remote Procedure Call statistics by user")[0]
    counts = re.findall(r"^\s*(\w+)\s*\(.*?count:(\d+)", by_type, re.M)
    return sum(int(count) for name, count in counts if name != OWN_RPC)


def ssh_connections(tables: str) -> int:
    """Return how many established connections to port 22 the ``tables`` (/proc/net/tcp and tcp6) list."""
    rows = (line.split() for line in tables.splitlines())
    return sum(row[2].endswith(":0016") and row[3] == "01" for row in rows if len(row) > 3)


def cpu_ticks(stats: str, name: str) -> int:
    """Return the ticks (1/100 s) of processes called ``name`` and their ended children, from /proc/*/stat."""
    processes = (line.partition("(")[2].rpartition(") ") for line in stats.splitlines())
    return sum(sum(map(int, rest.split()[11:15])) for command, _, rest in processes if command == name)


def private_memory(statuses: str) -> int:
    """Return the bytes of memory that processes don't share with files, by their /proc/*/status."""
    return 1024 * sum(map(int, re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", statuses, re.M)))


def layers_size(trees: Iterable[str]) -> float:
    """Return the bytes of the images whose `podman image tree` are given, shared layers counted once."""
    units = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}
    layers = {
        layer: float(number) * units[unit]
        for tree in trees
        for layer, number, unit in re.findall(r"ID: (\w+) Size:\s*([\d.]+)\s*([kMG]?B)", tree)
    }
    return sum(layers.values())


def steps(table: str) -> dict[str, float]:
    """Return the seconds of each step in what `invoke verify` prints."""
    return {name: float(seconds) for name, seconds in re.findall(r"^(\w+)\s+([\d.]+) s\b", table, re.M)}


def to_notebook(walk: Mapping[str, float]) -> float:
    """Return the seconds from the log-in until the notebook answers, without the checks `ssh` and `sudo`."""
    return sum(walk[name] for name in ("login", "form", "sbatch", "node", "callback", "proxy"))


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure over ``runs``, in the order of the first; not all have to have it."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: median(run[name] for run in runs if name in run) for name in names}


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are to the right."""
    rules = ["---", *["---:"] * (len(headings) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (headings, rules, *rows))


@dataclass(frozen=True)
class Load:
    """The result of one load. ``spawns`` and ``cells``: seconds from the form, for users who got that far."""

    users: int
    spawns: tuple[float, ...]
    cells: tuple[float, ...]
    lost: int  # servers that were ready and did not answer, or whose kernel forgot, after they had been kept
    stopped: int
    hub_spawning: float  # parts of one core, while servers start
    hub_keeping: float
    connections: int  # at most, at any look
    rpcs_spawning: float  # a minute
    rpcs_keeping: float
    squeue: float  # median round trip, seconds
    memory: int  # bytes, of the pod with all servers and kernels
    problems: tuple[str, ...] = ()

    def row(self) -> tuple[str, ...]:
        """Return the cells of this load's row under HEADINGS."""
        return (
            f"{self.users}",
            f"{100 * self.stopped / self.users:.0f} %",
            f"{self.lost}",
            f"{quantile(self.spawns, 0.5):.1f} s",
            f"{quantile(self.spawns, 0.95):.1f} s",
            f"{quantile(self.cells, 0.5):.1f} s",
            f"{100 * self.hub_spawning:.0f} %",
            f"{100 * self.hub_keeping:.0f} %",
            f"{self.connections}",
            f"{self.rpcs_spawning:.0f}",
            f"{self.rpcs_keeping:.0f}",
            f"{1000 * self.squeue:.0f} ms",
            f"{self.memory / MB:.0f} MB",
        )


HEADINGS = (
    *("users", "success", "lost", "spawn p50", "spawn p95", "first cell p50"),
    *("hub CPU, starting", "hub CPU, running"),
    *("SSH connections", "RPC/min, starting", "RPC/min, running", "squeue p50", "pod's memory"),
)


def amount(name: str, value: float) -> str:
    """Return ``value`` with its unit: bytes of memory and images, seconds of everything else."""
    return f"{value / MB:.0f} MB" if name.startswith(("memory", "image")) else f"{value:.2f} s"


def report(
    machine: str,
    cold: Mapping[str, float],
    runs: Sequence[Mapping[str, float]],
    sizes: Mapping[str, float],
    loads: Sequence[Load],
    alone: Load | None,
) -> str:
    """Return the tables of all measurements: medians of ``runs``, with least and most; then the loads.

    ``alone`` is the largest of ``loads`` again, with a query for each job instead of a shared one.
    """
    steps = [
        (name, *(amount(name, pick(run[name] for run in runs if name in run)) for pick in (median, min, max)))
        for name in medians(runs)
    ]
    once = [(name, amount(name, value)) for name, value in {**cold, **sizes}.items()]
    text = f"Measured on: {machine}; {len(runs)} run(s).\n\n"
    text += (
        table(("step", "median", "least", "most"), steps) + "\n" + table(("measured once", "figure"), once)
    )
    if loads:
        rows = [load.row() for load in loads]
        if alone:
            rows.append((f"{alone.users}, no shared query", *alone.row()[1:]))
        text += "\n" + table(HEADINGS, rows)
    for load in (*loads, *filter(None, [alone])):
        text += "".join(f"\n- {load.users} users: {problem}" for problem in load.problems[:5])
    return text.rstrip("\n") + "\n"
