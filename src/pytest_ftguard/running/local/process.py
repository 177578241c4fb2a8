"""One fresh process per trial: start, progress, timeout, reaping, and what each way of ending means."""

from __future__ import annotations

import json
import os
import re
import select
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError, FtguardError
from pytest_ftguard.results import Environment, Outcome, TrialError, TrialResult
from pytest_ftguard.specs import TrialSpec

__all__ = ["KEEP_FREED_MEMORY", "Event", "Job", "Worker"]

_TICK_SECONDS: Final = 0.25
_STACK_DUMP_SECONDS: Final = 1.0
_VMSTAT: Final = Path("/proc/vmstat")
_IMPORT_SECONDS: Final = 60.0
_REAPING_SECONDS: Final = 30.0
_FORECAST_SECONDS: Final = 180.0
_DESCRIPTION_SECONDS: Final = 120.0
_LOG_TAIL_LINES: Final = 15
_LOG_TAIL_BYTES: Final = 16_384
_STACK_HEAD: Final = re.compile(r"(Current thread|Thread) 0x[0-9a-f]+ ")

# glibc gives large freed blocks back to the kernel at once; keeping them spares a training step on the CPU the
# page faults of getting them again.
KEEP_FREED_MEMORY: Final = {"MALLOC_MMAP_THRESHOLD_": str(4 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}
# Left behind by `accelerate launch`, torchrun or mpirun around pytest, these would change the precision of a trial, or
# make it wait for processes that are not its own.
_LAUNCHER_PREFIXES: Final = ("ACCELERATE_", "FSDP_", "MASTER_", "OMPI_", "PMI_", "MV2_", "TORCHELASTIC_")
_LAUNCHER_NAMES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")


@dataclass(frozen=True)
class Event:
    """What a worker reports as its trial goes on.

    Attributes:
        phase: "start", "load", "evaluate", "train" or "save".
        step: Optimizer steps done.
        loss: Training loss of that step, in nats per token, if known.
    """

    phase: str
    step: int = 0
    loss: float | None = None


@dataclass(frozen=True)
class Job:
    """What a worker is given to do.

    Attributes:
        spec: What is trained.
        folder: A folder of the trial's own.
        keep_at_most_bytes: Largest size of trained weights that are kept; None is no bound.
        base: Losses of the base model, where an earlier trial measured them.
        timeout_seconds: Time that the trial may take; None is no bound.
        run: Identity of the run that the trial is part of.
        foretell: Whether a training that will not fit into the device's memory is to end before it begins.
        checkpoints: Folder that outlives the process, from which a training that was killed goes on; None keeps none.
        checkpoint_seconds: Time between two checkpoints.
    """

    spec: TrialSpec
    folder: Path
    keep_at_most_bytes: int | None
    base: Mapping[str, Any] | None
    timeout_seconds: float | None
    run: str
    foretell: bool = False
    checkpoints: Path | None = None
    checkpoint_seconds: float = 60.0


class Worker:
    """A process that imports at once, waits for a job, does it, and ends.

    It dies with the process that started it: it holds the reading end of a pipe and kills its own process group
    when the pipe closes, which the kernel sees to however the parent ends.

    Args:
        folder: Where its log and its result are written.
        scratch: Folder that it removes where its parent has died and cannot; it holds `folder`.
        device: The one device that it sees, as CUDA_VISIBLE_DEVICES takes it; None leaves it the first visible one.
    """

    def __init__(self, folder: Path, scratch: Path, device: str | None = None) -> None:
        self._log = folder / "log.txt"
        self._result = folder / "result.json"
        reading, writing = os.pipe()
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    # -P keeps the working folder off sys.path, where a user's torch.py or data.py would shadow modules.
                    [sys.executable, "-P", "-m", "pytest_ftguard.running.local.worker", str(writing), str(scratch)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(writing,),
                    start_new_session=True,
                    env=_environment(device),
                )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._events = reading
        self._unread = b""
        self._started = time.monotonic()
        self._is_ready = False
        self._waits = False
        self._environment: dict[str, Any] | None = None
        self._oom_kills = 0

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def is_quiet(self) -> bool:
        """Return whether a worker without a job has done its imports, or never will, and so disturbs nobody."""
        if not self._is_ready and select.select([self._events], [], [], 0)[0]:
            for _ in self._parse(os.read(self._events, 1 << 16)):
                pass  # it has no job, so it reports nothing but that it is ready
        return self._is_ready or self.has_ended or time.monotonic() - self._started > _IMPORT_SECONDS

    def run(self, job: Job, on_event: Callable[[Event], None], is_quiet: Callable[[], bool]) -> TrialResult:
        """Do a job and return its result, whatever happened to the process.

        Args:
            job: What is to be done.
            on_event: Called with each event, and a few times a second with the latest one.
            is_quiet: Whether nothing else of ours uses the machine; the steps that are timed wait for it.

        Raises:
            ConfigurationError: The spec cannot be carried out.
            DeviceUnavailableError: The device is not present.
        """
        deadline = time.monotonic() + job.timeout_seconds if job.timeout_seconds is not None else None
        self._oom_kills = oom_kills()
        try:
            self._send(self._message(job))
            latest = Event("start")
            on_event(latest)
            for event in self._watch():
                latest = event or latest
                on_event(latest)
                if self._waits and is_quiet():
                    self._waits = False
                    self._send({"go": True})
                if deadline is not None and time.monotonic() > deadline:
                    return self._stop_late(job, latest)
            return self._collect(job, latest)
        finally:
            # Also when the waiting itself is interrupted, by Ctrl-C or by a test's own time limit.
            self.close()

    def describe(self, device: str, precision: str) -> Environment | None:
        """Return the environment of a trial on a device; None where there is no such device, or no answer.

        Afterwards the worker waits for a job as before.

        Args:
            device: "auto" or a device of torch.
            precision: "auto", "fp32" or "bf16".
        """
        self._send({"describe": {"device": device, "precision": precision}})
        deadline = time.monotonic() + _DESCRIPTION_SECONDS
        for _ in self._watch():
            if self._environment is not None or time.monotonic() > deadline:
                break
        values = (self._environment or {}).get("environment")
        return Environment(**values) if values else None

    def forecast(self, specs: Sequence[TrialSpec], *, texts: bool = False) -> list[TrialResult]:
        """Return what trials would take, without training them; where there is no forecast, the result says why.

        Args:
            specs: What would be trained.
            texts: Whether to look at the texts too, as the trainings would.

        Raises:
            ConfigurationError: A spec cannot be carried out.
            DeviceUnavailableError: The device is not present.
        """
        deadline = time.monotonic() + _FORECAST_SECONDS
        try:
            self._send({"forecasts": [spec.to_dict() for spec in specs], "texts": texts, **self._surroundings})
            for _ in self._watch():
                if time.monotonic() > deadline:
                    return [_without_forecast(spec, f"it took longer than {_FORECAST_SECONDS:g} s") for spec in specs]
            if self._process.returncode != 0:
                return [_without_forecast(spec, self._last_line()) for spec in specs]
            return [TrialResult.from_dict(values) for values in self._read_result()["planned"]]
        except (OSError, ValueError, KeyError, FtguardError) as error:
            if isinstance(error, ConfigurationError | DeviceUnavailableError):
                raise
            return [_without_forecast(spec, str(error)) for spec in specs]
        finally:
            self.close()

    def close(self) -> None:
        """End the process and everything that it started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # it has ended already
        try:
            self._process.wait(_REAPING_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # stuck inside a driver, where no signal reaches it; waiting longer would only hang pytest as well
        if self._events >= 0:
            os.close(self._events)
            self._events = -1
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass  # the job was never read

    def _message(self, job: Job) -> dict[str, Any]:
        return {
            "spec": job.spec.to_dict(),
            "folder": str(job.folder),
            "keep_at_most_bytes": job.keep_at_most_bytes,
            "base": job.base,
            "run": job.run,
            "foretell": job.foretell,
            "checkpoints": None if job.checkpoints is None else str(job.checkpoints),
            "checkpoint_seconds": job.checkpoint_seconds,
            **self._surroundings,
        }

    @property
    def _surroundings(self) -> dict[str, Any]:
        # What can be imported in the tests can be imported there: a training function of the user's, for one.
        return {"import_path": [str(Path(path).resolve()) for path in sys.path], "result_path": str(self._result)}

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; _collect says so with its log

    def _watch(self) -> Iterator[Event | None]:
        """Yield events as they come, and None at every tick, until the process has ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._events, selectors.EVENT_READ)
            while True:
                ended = self._process.poll() is not None
                if selector.select(0 if ended else _TICK_SECONDS):
                    chunk = os.read(self._events, 1 << 16)
                    if not chunk:  # every writer has closed it: wait for the exit code
                        self._process.wait()
                        return
                    yield from self._parse(chunk)
                elif ended:
                    return
                yield None

    def _parse(self, chunk: bytes) -> Iterator[Event]:
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        for line in lines:
            values = json.loads(line)
            match values["phase"]:
                case "ready":
                    self._is_ready = True
                case "environment":
                    self._environment = values
                case "wait":
                    self._waits = True
                case phase:
                    yield Event(phase, values["step"], values["loss"])

    def _stop_late(self, job: Job, latest: Event) -> TrialResult:
        self._process.send_signal(signal.SIGUSR1)  # the worker writes its stacks to its log
        time.sleep(_STACK_DUMP_SECONDS)
        self.close()
        fewer = ", or train for fewer steps" if latest.phase not in ("start", "load") else ": no step was reached"
        message = (
            f"it took longer than the timeout of {job.timeout_seconds:g} s, in phase {latest.phase!r} at step "
            f"{latest.step}: raise ftguard_timeout{fewer}"
        )
        return TrialResult(spec=job.spec, outcome="timed_out", error=TrialError(message, self._last_stack()))

    def _collect(self, job: Job, latest: Event) -> TrialResult:
        """Decide by exit code and result file together."""
        code = self._process.returncode
        where = f"in phase {latest.phase!r} at step {latest.step}"
        if code < 0:
            name = signal.Signals(-code).name
            if name == "SIGKILL" and oom_kills() > self._oom_kills:
                # The count is that of the whole machine.
                killed = "the kernel has killed a process for lack of memory meanwhile, most likely this one"
                return self._failure(job, "out_of_memory", f"its process was ended by SIGKILL, and {killed}, {where}")
            hint = ", by someone, or by the kernel because the machine ran out of memory" if name == "SIGKILL" else ""
            return self._failure(job, "crashed", f"its process was ended by {name}{hint}, {where}")
        if code > 0:
            return self._failure(
                job, "crashed", f"its process ended with exit code {code} {where}: {self._last_line()}"
            )
        try:
            result = TrialResult.from_dict(self._read_result()["result"])
        except (ConfigurationError, DeviceUnavailableError):
            raise
        except (OSError, ValueError, KeyError, FtguardError) as error:
            message = f"its process ended normally {where}, but left no readable result: {error}"
            return self._failure(job, "crashed", message)
        return result

    def _read_result(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._result.read_text(encoding="utf-8"))
        if "configuration_error" in content:
            raise ConfigurationError(content["configuration_error"])
        if "device_error" in content:
            raise DeviceUnavailableError(content["device_error"])
        return content

    def _failure(self, job: Job, outcome: Outcome, message: str) -> TrialResult:
        return TrialResult(spec=job.spec, outcome=outcome, error=TrialError(message, self._log_tail()))

    def _log_lines(self) -> list[str]:
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, self._log.stat().st_size - _LOG_TAIL_BYTES))
                return log.read().decode("utf-8", errors="replace").splitlines()
        except OSError:
            return []  # a cleaner of temporary files has removed it

    def _log_tail(self) -> str:
        return "\n".join(self._log_lines()[-_LOG_TAIL_LINES:])

    def _last_stack(self) -> str:
        """Return the head of the last stack in the log, that of the main thread: its innermost calls come first."""
        lines = self._log_lines()
        heads = [number for number, line in enumerate(lines) if _STACK_HEAD.match(line)]
        return "\n".join(lines[heads[-1] :][:_LOG_TAIL_LINES]) if heads else self._log_tail()

    def _last_line(self) -> str:
        return next((line for line in reversed(self._log_tail().splitlines()) if line.strip()), "its log is empty")


def oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory since it started; 0 where it does not say."""
    try:
        lines = _VMSTAT.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _without_forecast(spec: TrialSpec, reason: str) -> TrialResult:
    return TrialResult(spec=spec, outcome="planned", error=TrialError(f"no forecast: {reason}"))


def _environment(device: str | None) -> dict[str, str]:
    # The folder that holds this package, for a source tree that is on sys.path but not on PYTHONPATH.
    source = str(Path(__file__).parents[3])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != source]
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _LAUNCHER_NAMES and not name.startswith(_LAUNCHER_PREFIXES)
    }
    return {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **KEEP_FREED_MEMORY,
        **inherited,
        "PYTHONPATH": os.pathsep.join([*paths, source]),
        "PYTHONUNBUFFERED": "1",
        **({} if device is None else {"CUDA_VISIBLE_DEVICES": device}),
    }
