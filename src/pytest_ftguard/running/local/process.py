"""One fresh process per trial: start, orders, events, timeout and reaping."""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from pytest_ftguard.running.executor import (
    Answer,
    DescribeJob,
    Event,
    ForecastJob,
    FormsJob,
    Job,
    MeasureJob,
    TrainJob,
)
from pytest_ftguard.running.local.ending import Log, answer_of, oom_kills, too_late
from pytest_ftguard.running.local.environment import worker_environment
from pytest_ftguard.running.local.forker import ForkedProcess, Forker

__all__ = ["Worker"]

_TICK_SECONDS: Final = 0.25
_STACK_DUMP_SECONDS: Final = 1.0
_IMPORT_SECONDS: Final = 60.0
_REAPING_SECONDS: Final = 30.0
_FORECAST_SECONDS: Final = 180.0
_DESCRIPTION_SECONDS: Final = 120.0


class Worker:
    """A process that imports at once, waits for a job, does it, and ends.

    It dies with the process that started it: it holds the reading end of a pipe and kills its own process group
    when the pipe closes, which the kernel sees to however the parent ends.

    Args:
        folder: Where its log and its answer are written.
        scratch: Folder that it removes if its parent has died; it holds `folder`.
        device: The one device that it sees, as CUDA_VISIBLE_DEVICES takes it; None leaves it the first visible one.
        forker: Forks it, from a process that has imported already; None if it imports itself.
    """

    def __init__(self, folder: Path, scratch: Path, device: str | None = None, forker: Forker | None = None) -> None:
        self._log = Log(folder / "log.txt")
        self._answer_path = folder / "answer.json"
        reading, writing = os.pipe()
        try:
            with self._log.path.open("wb") as log:
                self._process = _forked(forker, log.fileno(), writing) or _started(log, writing, scratch, device)
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
        self._answer: Answer | None = None

    @property
    def pid(self) -> int:
        """Number of the process, which leads a group of its own."""
        return self._process.pid

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

    def run(
        self,
        job: TrainJob | MeasureJob | FormsJob | ForecastJob,
        on_event: Callable[[Event], None],
        is_quiet: Callable[[], bool],
    ) -> Answer:
        """Do a job and return its answer, whatever happened to the process; afterwards the worker has ended.

        Args:
            job: What is to be done.
            on_event: Called with each event, and a few times a second with the latest one.
            is_quiet: Whether nothing else of ours uses the machine; the steps that are timed wait for it.
        """
        seconds = _FORECAST_SECONDS if isinstance(job, ForecastJob) else job.timeout_seconds
        deadline = None if seconds is None else time.monotonic() + seconds
        kills = oom_kills()
        try:
            self._send_job(job)
            latest = Event("start")
            on_event(latest)
            for event in self._watch():
                latest = event or latest
                on_event(latest)
                if self._waits and is_quiet():
                    self._waits = False
                    self._send({"message": "go"})
                if seconds is not None and deadline is not None and time.monotonic() > deadline:
                    self._dump_stacks()
                    return too_late(job, seconds, self._log, latest)
            code, killed = self._process.wait(), oom_kills() > kills
            return answer_of(code, self._answer_path, self._log, latest, kernel_killed=killed)
        finally:
            # Also when the waiting itself is interrupted, by Ctrl-C or by a test's own time limit.
            self.close()

    def describe(self, job: DescribeJob) -> Answer:
        """Return the environment of a trial on a device, or an empty answer; the worker waits for a job as before."""
        self._send_job(job)
        deadline = time.monotonic() + _DESCRIPTION_SECONDS
        for _ in self._watch():
            if self._answer is not None or time.monotonic() > deadline:
                break
        answer, self._answer = self._answer or Answer(), None
        return answer

    def _dump_stacks(self) -> None:
        self._process.send_signal(signal.SIGUSR1)  # the worker writes its stacks to its log
        time.sleep(_STACK_DUMP_SECONDS)
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
            pass  # stuck inside a driver: no signal reaches it; waiting longer would only hang pytest as well
        if self._events >= 0:
            os.close(self._events)
            self._events = -1
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass  # the job was never read

    def _send_job(self, job: Job) -> None:
        self._send({"message": "job", "job": job.to_dict(), "answer_path": str(self._answer_path)})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; its end says so with its log

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
            match values["message"]:
                case "ready":
                    self._is_ready = True
                case "wait":
                    self._waits = True
                case "answer":
                    self._answer = Answer.from_dict(values["answer"])
                case _:
                    yield Event(values["phase"], values["step"], values["loss"])


def _forked(forker: Forker | None, log: int, events: int) -> ForkedProcess | None:
    """Return the process of a worker that need not import; None if there can be none."""
    try:
        return forker.fork(log, events) if forker is not None else None
    except OSError:
        return None  # one that is started does the same


def _started(log: IO[bytes], events: int, scratch: Path, device: str | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # -P keeps the working folder off sys.path: a user's torch.py or data.py would shadow modules.
        [sys.executable, "-P", "-m", "pytest_ftguard.running.local.worker", str(events), str(scratch)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=(events,),
        start_new_session=True,
        env=worker_environment(device),
    )
