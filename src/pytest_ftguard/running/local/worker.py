"""The process of one trial: a job in on standard input, progress events and a result file out.

Started as `python -m pytest_ftguard.running.local.worker EVENTS SCRATCH`. It imports torch at once and
then waits for its job, so that a worker started early is ready when its turn comes.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError, FtguardError
from pytest_ftguard.files import write_whole
from pytest_ftguard.results import SequenceLosses, TrialResult
from pytest_ftguard.specs import TrialSpec, find_variant_class

if TYPE_CHECKING:
    from pytest_ftguard.training.trial import BaseLosses

__all__ = ["base_losses", "load_trained", "main"]

Message = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Import, wait for the job, do it, and leave."""
    send = _event_sender(int(arguments[0]))
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read_standard_input, args=(inbox, Path(arguments[1])), daemon=True).start()
    # The parent asks for the stacks with this signal before it kills a worker that takes too long.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    _use_one_device()

    from pytest_ftguard.training import trial

    send({"phase": "ready", "step": 0, "loss": None})
    job = inbox.get()
    while "describe" in job:
        send({"phase": "environment", **_describe(job["describe"])})
        job = inbox.get()
    # Behind what is there already: a user's data.py must not stand before another package's.
    sys.path.extend(path for path in job["import_path"] if path not in sys.path)
    if "forecasts" in job:
        _finish(job, lambda: _plans(job))
    checkpoints = None if job["checkpoints"] is None else Path(job["checkpoints"])
    folder = trial.TrialFolder(Path(job["folder"]), job["keep_at_most_bytes"], checkpoints, job["checkpoint_seconds"])

    def report(phase: str, step: int, loss: float | None) -> None:
        send({"phase": phase, "step": step, "loss": loss})

    def wait_for_quiet() -> None:
        send({"phase": "wait", "step": 0, "loss": None})
        inbox.get()  # the parent's "go"

    base = _read_base(job["base"], trial.BaseLosses)
    options = {"run": job["run"], "foretell": job["foretell"]}

    def train() -> Message:
        _import_classes(job)
        spec = TrialSpec.from_dict(job["spec"])
        return {"result": trial.run_trial(spec, folder, report, base, wait_for_quiet, **options).to_dict()}

    _finish(job, train)


def _import_classes(job: Message) -> None:
    """Import the user's own classes of variants, without which a spec cannot be read."""
    for path in job["variant_classes"]:
        find_variant_class(path)


def _describe(asked: Message) -> Message:
    from pytest_ftguard.training import machine

    try:
        device = machine.resolve_device(asked["device"])
        precision = machine.resolve_precision(asked["precision"], device)
    except FtguardError:
        return {"environment": None}  # the trial says what is wrong
    return {"environment": asdict(machine.describe(device, precision=precision))}


def _plans(job: Message) -> Message:
    from pytest_ftguard.training import forecast

    _import_classes(job)
    specs = map(TrialSpec.from_dict, job["forecasts"])
    return {"planned": [forecast.plan_trial(spec, texts=job["texts"]).to_dict() for spec in specs]}


def _finish(job: Message, work: Callable[[], Message]) -> NoReturn:
    """Do the work, leave its result for the parent, and end the process."""
    content: Message
    try:
        content = work()
    except ConfigurationError as error:
        content = {"configuration_error": str(error)}
    except DeviceUnavailableError as error:
        content = {"device_error": str(error)}
    write_whole(Path(job["result_path"]), json.dumps(content))
    if job.get("checkpoints") is not None:
        shutil.rmtree(job["checkpoints"], ignore_errors=True)  # only now: the result is on disk
    sys.stdout.flush()
    sys.stderr.flush()
    # The result is on disk: leaving at once spares the second that taking a large torch process apart costs.
    os._exit(0)


def _event_sender(descriptor: int) -> Callable[[dict[str, Any]], None]:
    def send(event: dict[str, Any]) -> None:
        os.write(descriptor, json.dumps(event).encode() + b"\n")  # one write below PIPE_BUF: lines never mix

    return send


def _read_standard_input(inbox: queue.SimpleQueue[Message], scratch: Path) -> None:
    """Hand over what comes, until the end of the stream: it means that the parent is gone, however it died."""
    rest = b""
    while chunk := os.read(0, 1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            inbox.put(json.loads(line))
    # Trained weights may be gigabytes, and nobody else is left to remove them.
    shutil.rmtree(scratch, ignore_errors=True)
    # Only a group of our own may be killed: a worker started by hand shares the shell's.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _use_one_device() -> None:
    """Show the first visible GPU only: with several the Trainer would split each batch among them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]


def _read_base(values: dict[str, Any] | None, make: type[BaseLosses]) -> BaseLosses | None:
    if values is None:
        return None
    reference = values["reference"]
    return make(
        validation=SequenceLosses.from_dict(values["validation"]),
        reference=None if reference is None else SequenceLosses.from_dict(reference),
    )


def base_losses(result: TrialResult) -> dict[str, Any] | None:
    """Return the base model's losses that a trial measured, as a later trial's job takes them."""
    if result.base_validation is None:
        return None
    reference = None if result.base_reference is None else asdict(result.base_reference)
    return {"validation": asdict(result.base_validation), "reference": reference}


def load_trained(result: TrialResult) -> tuple[Any, Any]:
    """Return a trial's trained model and tokenizer; this imports torch into the present process."""
    from pytest_ftguard.training import kept

    assert result.model_dir is not None  # TrainedVariant.load has checked it
    return kept.load_trained(result.spec, result.model_dir)


if __name__ == "__main__":
    main(sys.argv[1:])
