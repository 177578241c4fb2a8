"""What pytest-ftguard costs a project that does not use it: whole pytest runs with and without it, in turn.

python benchmarks/startup.py [PAIRS]

Other work on the machine disturbs the processor time less than the wall time, but it disturbs both. The interval of a
median difference is that of its order statistics, at 95 %.
"""

from __future__ import annotations

import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAIRS = 20


def seconds(folder: Path, *options: str) -> tuple[float, float]:
    """Return the wall time and the processor time of one pytest run of a project with one trivial test."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    # An installed plugin has its byte code; without it an editable one would be compiled again in every run.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start, used = time.perf_counter(), processor_seconds()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, processor_seconds() - used


def pair(folder: Path, plugin_first: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the times with and without the plugin; who goes first alternates, so that neither gains by its place."""
    if plugin_first:
        with_plugin = seconds(folder)
        return with_plugin, seconds(folder, "-p", "no:ftguard")
    without = seconds(folder, "-p", "no:ftguard")
    return seconds(folder), without


def processor_seconds() -> float:
    """Return the processor time of all child processes that have ended, which other work disturbs less."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def interval(values: list[float]) -> tuple[float, float]:
    """Return an interval that holds the median with a probability of at least 0.95."""
    ordered, count = sorted(values), len(values)
    rank, below = 0, 0.5**count
    while below + math.comb(count, rank + 1) * 0.5**count <= 0.025:
        rank += 1
        below += math.comb(count, rank) * 0.5**count
    return ordered[rank], ordered[-1 - rank]


def modules(folder: Path, *options: str) -> set[str]:
    """Return what a pytest run has imported when it ends."""
    code = "import pytest, sys; code = pytest.main(sys.argv[1:]); print(*sys.modules, file=sys.stderr); sys.exit(code)"
    command = [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", *options]
    found = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return set(found.stderr.split())


def main(pairs: int) -> None:
    """Print the medians, the median of the differences within pairs, and what is imported in addition."""
    print(f"CPython {platform.python_version()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_nothing.py").write_text("def test_nothing():\n    pass\n", encoding="utf-8")
        for options in ((), ("-p", "no:ftguard")):  # byte code is written once, before anything counts
            seconds(folder, *options)
        runs = [pair(folder, plugin_first=bool(number % 2)) for number in range(pairs)]
        added = modules(folder) - modules(folder, "-p", "no:ftguard")
    for index, kind in enumerate(("wall", "processor")):
        with_plugin, without = zip(*((1000 * a[index], 1000 * b[index]) for a, b in runs), strict=True)
        differences = [a - b for a, b in zip(with_plugin, without, strict=True)]
        lower, upper = interval(differences)
        print(
            f"{kind:9s}  with ftguard {statistics.median(with_plugin):.1f} ms, without "
            f"{statistics.median(without):.1f} ms; median difference {statistics.median(differences):.1f} ms "
            f"[{lower:.1f}, {upper:.1f}], {pairs} pairs"
        )
    print(f"{len(added)} modules more: {', '.join(sorted(added))}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS)
