"""What pytest-ftguard costs a project that does not use it: whole pytest runs with and without it, in turn.

python benchmarks/startup.py [PAIRS]
"""

from __future__ import annotations

import os
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


def main(pairs: int) -> None:
    """Print the medians and the median of the differences within pairs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_nothing.py").write_text("def test_nothing():\n    pass\n", encoding="utf-8")
        for options in ((), ("-p", "no:ftguard")):  # byte code is written once, before anything counts
            seconds(folder, *options)
        runs = [pair(folder, plugin_first=bool(number % 2)) for number in range(pairs)]
    for index, kind in enumerate(("wall", "processor")):
        with_plugin, without = zip(*((a[index], b[index]) for a, b in runs), strict=True)
        difference = statistics.median(a - b for a, b in zip(with_plugin, without, strict=True))
        print(
            f"{kind:9s}  with ftguard {1000 * statistics.median(with_plugin):.1f} ms, without "
            f"{1000 * statistics.median(without):.1f} ms; median difference {1000 * difference:.1f} ms, {pairs} pairs"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS)
