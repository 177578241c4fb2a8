"""What the end of a worker means: by its exit code, the file with its answer, and its log."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Final

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.running.executor import (
    Answer,
    Event,
    Failure,
    FailureKind,
    ForecastJob,
    FormsJob,
    MeasureJob,
    TrainJob,
)

__all__ = ["Log", "answer_of", "oom_kills", "too_late"]

_VMSTAT: Final = Path("/proc/vmstat")
_LOG_TAIL_LINES: Final = 15
_LOG_TAIL_BYTES: Final = 16_384
_STACK_HEAD: Final = re.compile(r"(Current thread|Thread) 0x[0-9a-f]+ ")


class Log:
    """The end of a process's log.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def _lines(self) -> list[str]:
        try:
            with self.path.open("rb") as log:
                log.seek(max(0, self.path.stat().st_size - _LOG_TAIL_BYTES))
                return log.read().decode("utf-8", errors="replace").splitlines()
        except OSError:
            return []  # a cleaner of temporary files has removed it

    @property
    def tail(self) -> str:
        """The last lines."""
        return "\n".join(self._lines()[-_LOG_TAIL_LINES:])

    @property
    def last_stack(self) -> str:
        """The head of the last stack, that of the main thread: its innermost calls come first."""
        lines = self._lines()
        heads = [number for number, line in enumerate(lines) if _STACK_HEAD.match(line)]
        return "\n".join(lines[heads[-1] :][:_LOG_TAIL_LINES]) if heads else self.tail

    @property
    def last_line(self) -> str:
        """The last line that says anything."""
        return next((line for line in reversed(self.tail.splitlines()) if line.strip()), "its log is empty")


def answer_of(code: int, path: Path, log: Log, latest: Event, *, kernel_killed: bool) -> Answer:
    """Return the answer of a process that has ended; the exit code and the file decide together.

    Args:
        code: Its exit code, negative for the signal that ended it.
        path: The file with the answer.
        log: Its log.
        latest: Its latest event.
        kernel_killed: Whether the kernel has killed a process for lack of memory meanwhile.
    """
    where = f"in phase {latest.phase!r} at step {latest.step}"

    def failed(kind: FailureKind, message: str) -> Answer:
        return Answer(failure=Failure(kind=kind, message=message, log_tail=log.tail, phase=latest.phase))

    if code < 0 and not path.is_file():  # it is written whole, and last
        name = signal.Signals(-code).name
        if name == "SIGKILL" and kernel_killed:
            # The count is that of the whole machine.
            killed = "the kernel killed a process for lack of memory in the meantime, most likely this one"
            return failed("out_of_memory", f"its process was ended by SIGKILL, and {killed}, {where}")
        hint = ", by someone, or by the kernel because the machine ran out of memory" if name == "SIGKILL" else ""
        kind: FailureKind = "killed" if name == "SIGKILL" else "crashed"
        return failed(kind, f"its process was ended by {name}{hint}, {where}")
    if code > 0:
        return failed("crashed", f"its process ended with exit code {code} {where}: {log.last_line}")
    try:
        return Answer.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, FtguardError) as error:
        return failed("crashed", f"its process ended normally {where}, but left no readable result: {error}")


def too_late(job: TrainJob | MeasureJob | FormsJob | ForecastJob, seconds: float, log: Log, latest: Event) -> Answer:
    """Return the answer of a process that was ended because it took longer than it may."""
    message = f"it took longer than {seconds:g} s"
    if isinstance(job, TrainJob):
        fewer = ", or train for fewer steps" if latest.phase not in ("start", "load") else ": no step was reached"
        message = (
            f"it took longer than the timeout of {seconds:g} s, in phase {latest.phase!r} at step "
            f"{latest.step}: raise ftguard_timeout{fewer}"
        )
    return Answer(failure=Failure(kind="timed_out", message=message, log_tail=log.last_stack, phase=latest.phase))


def oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory since it started; 0 if it does not say."""
    try:
        lines = _VMSTAT.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
