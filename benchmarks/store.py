"""What the store costs and saves: the look-up among many entries, the unchanged second run, and runs at the same time.

Run as `python benchmarks/store.py`; prints the table that `results/store.txt` holds.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_ftguard.results import (
    CurvePoint,
    Environment,
    Measured,
    Memory,
    Parameters,
    SequenceLosses,
    Timing,
    Trial,
)
from pytest_ftguard.specs import Full, TrialSpec, Workload
from pytest_ftguard.store.fingerprint import Fingerprint
from pytest_ftguard.store.store import Store, StoreOptions

QUICKSTART: Final = Path(__file__).parents[1] / "examples" / "quickstart"
ENTRIES: Final = 10_000
LOOK_UPS: Final = 200
PAIRS: Final = 7
AT_ONCE: Final = 8


def result() -> Trial:
    """A result with as many losses as the default of 256 sequences gives."""
    losses = SequenceLosses(
        nll=tuple(300.123456789 + number / 7 for number in range(256)),
        tokens=(127,) * 256,
        documents=None,
        digest="text",
    )
    return Trial(
        TrialSpec(
            workload=Workload(model="model", train="train", validation="validation"),
            variant=Full(learning_rate=5e-5),
            seed=0,
        ),
        Measured(
            outcome="ok",
            parameters=Parameters(1, 1),
            validation=losses,
            base_validation=losses,
            curve=tuple(CurvePoint(step, 2.0, losses.nll) for step in range(8)),
            memory=Memory(1, "live tensors"),
            time=Timing(0.1, 1, 1.0, run="earlier"),
            environment=Environment("cpu", "processor", "fp32", 2, "Linux", {}),
        ),
    )


def look_up() -> None:
    """Time the look-up of a result among many, and of one that is not there."""
    kept = result()
    with tempfile.TemporaryDirectory() as folder:
        options = StoreOptions(Path(folder), limit_bytes=10**12)
        names = [Fingerprint({"kind": "full", "seed": seed, "parts": ["x" * 64] * 20}) for seed in range(ENTRIES)]
        store = Store(options, "now")
        store._clean_up = lambda: None  # type: ignore[method-assign]  # it would walk all entries for each
        for name in names:
            store.keep(name, kept)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.json"))
        print(f"{ENTRIES:,} entries, {size / 1e6:.0f} MB")
        for what, wanted in {
            "found": names[:: ENTRIES // LOOK_UPS],
            "not found": [Fingerprint({"seed": -seed}) for seed in range(1, LOOK_UPS)],
        }.items():
            times = []
            for name in wanted:
                fresh = Store(options, "now")
                start = time.perf_counter()
                found = fresh.find(name, kept.spec, kept.measured.environment)
                times.append(1e3 * (time.perf_counter() - start))
                assert (found is not None) == (what == "found")
            print(f"  {what}: median {statistics.median(times):.2f} ms, longest {max(times):.2f} ms")
        fresh = Store(options, "now")
        start = time.perf_counter()
        fresh.why_missing(Fingerprint({"kind": "full", "seed": -1}))
        print(f"  why it is missing: {1e3 * (time.perf_counter() - start):.0f} ms")
        start = time.perf_counter()
        Store(options, "now").keep(replace_seed(names[0]), kept)
        print(f"  kept, with the check of the size: {1e3 * (time.perf_counter() - start):.0f} ms")


def replace_seed(name: Fingerprint) -> Fingerprint:
    """Another fingerprint of the same kind."""
    return replace(name, parts={**name.parts, "seed": -5})


def pytest_seconds(folder: Path, *options: str) -> float:
    """Return how long a pytest process takes."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    subprocess.run(command, cwd=folder, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def second_run() -> None:
    """Time the unchanged second run of the quickstart against a bare pytest that collects nothing of ours."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "quickstart"
        shutil.copytree(QUICKSTART, project, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        bare = Path(folder) / "bare"
        bare.mkdir()
        (bare / "test_nothing.py").write_text("def test_nothing(): pass\n")
        first = pytest_seconds(project)
        pairs = [(pytest_seconds(project), pytest_seconds(bare, "-p", "no:ftguard")) for _ in range(PAIRS)]
        above = statistics.median(second - nothing for second, nothing in pairs)
        print(f"quickstart: first run {first:.1f} s; {PAIRS} pairs of second run and bare pytest side by side:")
        print(f"  second {statistics.median(one for one, _ in pairs):.2f} s, above bare pytest {above:.2f} s")


def at_once() -> None:
    """Start many runs of the quickstart's short comparison at once, and count who trains."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "quickstart"
        shutil.copytree(QUICKSTART, project, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        reports = [Path(folder) / f"{number}.json" for number in range(AT_ONCE)]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "30_steps"]
        runs = [
            subprocess.Popen([*command, f"--ftguard-json={report}"], cwd=project, stdout=subprocess.DEVNULL)
            for report in reports
        ]
        codes = [run.wait() for run in runs]
        trials = [trial for report in reports for trial in json.loads(report.read_text())["trials"]]
        for label in sorted({trial["label"] for trial in trials}):
            ours = [trial for trial in trials if trial["label"] == label]
            trained = sum(not trial["cached"] for trial in ours)
            results = len({json.dumps(trial["validation"]) for trial in ours})
            print(
                f"{AT_ONCE} runs at once: {label} trained {trained} time(s), {len(ours)} results, {results} different"
            )
        print(f"  exit codes {sorted(set(codes))}")


if __name__ == "__main__":
    look_up()
    second_run()
    at_once()
