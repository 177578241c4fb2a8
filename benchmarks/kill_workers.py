"""Kill the processes of trials at random moments, and see that only their trials are lost.

Each round trains full fine-tuning and LoRA of a tiny model, one process each, and kills one of the processes that are
there with SIGKILL after a random time. The run must end, the trial with the killed process must be the one that
crashed, the others must end well, and no process may be left.

    python benchmarks/kill_workers.py [ROUNDS]        # about 8 s a round
"""

from __future__ import annotations

import inspect
import os
import random
import signal
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import psutil

from pytest_ftguard.running.executor import ExecutorOptions
from pytest_ftguard.running.lab import Lab, LabOptions
from pytest_ftguard.running.local.executor import LocalExecutor
from pytest_ftguard.running.local.process import Worker
from pytest_ftguard.specs import Full, LoRA, Variant, Workload

ROUNDS = 30
VARIANTS: tuple[Variant, ...] = (Full(learning_rate=1e-3), LoRA(r=4, learning_rate=1e-2))


def make_workload(folder: Path) -> Workload:
    """Write a tiny random model and two texts, and return a job of a few seconds on them."""
    import torch
    from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=384, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    ByT5Tokenizer().save_pretrained(folder / "model")
    source = inspect.getsource(inspect)
    (folder / "train.txt").write_text(source[:60_000], encoding="utf-8")
    (folder / "validation.txt").write_text(source[60_000:90_000], encoding="utf-8")
    return Workload(
        model=str(folder / "model"),
        train=str(folder / "train.txt"),
        validation=str(folder / "validation.txt"),
        block_size=32,
        steps=120,
        seeds=(0,),
        precision="fp32",
    )


def workers() -> list[psutil.Process]:
    """Return the processes of trials that this process has started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "pytest_ftguard.running.local.worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.Error:
            pass  # it has just ended
    return found


def play(workload: Workload, seconds: float, rng: random.Random) -> str:
    """Run one round; return what was killed and what became of it.

    Raises:
        AssertionError: A trial was blamed that was not killed, a result was lost, or a process is left.
    """
    running: dict[str, Any] = {}
    killed: dict[str, Any] = {}
    real = Worker.run

    def watched(self: Worker, job: Any, *rest: Any) -> Any:
        running.update(pid=self._process.pid, label=job.spec.variant.label)
        try:
            return real(self, job, *rest)
        finally:
            running.clear()

    def kill() -> None:
        time.sleep(seconds)
        victims = workers()
        if victims:
            victim = rng.choice(victims)
            killed.update(label=running.get("label") if victim.pid == running.get("pid") else "the next worker")
            os.kill(victim.pid, signal.SIGKILL)

    Worker.run = watched  # type: ignore[assignment, method-assign]
    thread = threading.Thread(target=kill)
    lab = Lab(LabOptions(device="cpu"), LocalExecutor(ExecutorOptions()), lambda _: None)
    lab.more_variants_expected = 1
    try:
        thread.start()
        results = {}
        for variant in VARIANTS:
            results[variant.label] = lab.train(workload, variant).trials[0]
            lab.more_variants_expected = 0
        thread.join()
    finally:
        Worker.run = real  # type: ignore[method-assign]
        lab.close()
    crashed = {label: trial for label, trial in results.items() if trial.measured.outcome != "ok"}
    victim = str(killed.get("label", "nothing, all had ended"))
    # A process that was killed when its result was on disk already has lost nothing.
    assert set(crashed) <= {victim}, f"killed {victim}, but {sorted(crashed)} failed"
    for trial in crashed.values():
        assert trial.measured.outcome == "crashed"
        assert trial.measured.error is not None
        assert "SIGKILL" in trial.measured.error.message
    for trial in results.values():
        assert trial.measured.outcome == "crashed" or trial.measured.validation is not None
    time.sleep(0.2)
    assert not workers(), "a process is left"
    return f"killed after {seconds:4.1f} s: {victim:24s} lost: {', '.join(crashed) or 'nothing'}"


def main() -> None:
    """Play the rounds, and print each."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=ROUNDS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        workload = make_workload(Path(name))
        for number in range(1, options.rounds + 1):
            print(f"{number:3d} {play(workload, rng.uniform(0, 9), rng)}", flush=True)
    print(f"{options.rounds} rounds: every run ended, only what was killed was lost, no process was left")
    sys.exit(0)


if __name__ == "__main__":
    main()
