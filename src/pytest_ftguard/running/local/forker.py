"""Workers that are forked from a process that has imported already: what pytest sees of that process."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from pytest_ftguard.running.local.devices import has_driver
from pytest_ftguard.running.local.environment import worker_environment

__all__ = ["ForkedProcess", "Forker"]

_IMPORT_SECONDS: Final = 60.0
_FORK_SECONDS: Final = 10.0
_TELLING_SECONDS: Final = 5.0
_REAPING_SECONDS: Final = 30.0


class ForkedProcess:
    """What a worker needs of `subprocess.Popen`, for a process that is the child of another one.

    Args:
        pid: Its number.
        stdin: Its standard input.
        status: Where its exit code comes in, from the process that has forked it.
        end: Can be read when it has ended.
    """

    def __init__(self, pid: int, stdin: IO[bytes], status: int, end: int) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = stdin
        self.returncode: int | None = None
        self._status = status
        self._end = end

    def poll(self) -> int | None:
        """Return how the process ended, None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return how the process ended, as soon as it has: as if it had been killed if nobody can tell."""
        if self.returncode is None:
            if not _has_come(timeout, self._end):
                raise subprocess.TimeoutExpired("a forked worker", timeout or 0)
            # The server tells at once, unless it was killed or stopped.
            code = os.read(self._status, 64) if _has_come(_TELLING_SECONDS, self._status) else b""
            os.close(self._status)
            os.close(self._end)
            self.returncode = int(code) if code else -signal.SIGKILL
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Forker:
    """A process that imports at once, and forks workers from then on.

    Each worker is as one that was started: a process with a group, pipes and an end of its own. It dies with pytest.

    Args:
        scratch: Folder that it removes if pytest has died.
    """

    def __init__(self, scratch: Path) -> None:
        self._environment = _environment()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-P", "-m", "pytest_ftguard.running.local.fork_server"),
                        *(str(theirs.fileno()), str(scratch)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env=self._environment,
                )
            except OSError:
                self._control.close()
                raise
        self._started = time.monotonic()
        self._is_ready = False

    @staticmethod
    def is_supported() -> bool:
        """Return whether there can be one: no driver of an accelerator outlives a fork, nor do libraries elsewhere."""
        return sys.platform == "linux" and not has_driver()

    @property
    def is_of_now(self) -> bool:
        """Whether a worker that is started now would have the same environment."""
        return self._environment == _environment()

    def is_quiet(self) -> bool:
        """Return whether it has done its imports, or never will, and so disturbs nobody."""
        return self.can_fork() or self.has_ended or time.monotonic() - self._started > _IMPORT_SECONDS

    def can_fork(self) -> bool:
        """Return whether it has done its imports, and waits for requests."""
        if not self._is_ready and _has_come(0, self._control.fileno()):
            self._is_ready = self._receive() == b"ready"
        return self._is_ready and not self.has_ended

    def wait(self) -> bool:
        """Return whether it can fork, as soon as that is known."""
        if not self._is_ready:
            _has_come(_IMPORT_SECONDS, self._control.fileno())
        return self.can_fork()

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone: it may not fork, or something went wrong."""
        return self._process.poll() is not None

    def _receive(self) -> bytes:
        try:
            return self._control.recv(64)
        except ConnectionError:
            return b""

    def fork(self, log: int, events: int) -> ForkedProcess:
        """Return a new worker.

        Args:
            log: Where its output goes.
            events: Where it reports.

        Raises:
            OSError: There is none.
        """
        reading, writing = os.pipe()
        ending, status = os.pipe()
        stdin = os.fdopen(writing, "wb")
        try:
            try:
                self._send([reading, log, events, status])
            finally:
                os.close(reading)
                os.close(status)
            pid = _number(ending)
            process = ForkedProcess(pid, stdin, ending, os.pidfd_open(pid))
            stdin.write(b"\n")  # without it the worker ends, and touches nothing
            stdin.flush()
        except BaseException:
            self.close()  # who has failed once is not asked again
            stdin.close()
            os.close(ending)
            raise
        return process

    def _send(self, descriptors: Sequence[int]) -> None:
        request = json.dumps({"folder": str(Path.cwd())}).encode()
        socket.send_fds(self._control, [request], descriptors)

    def close(self) -> None:
        """End it; its workers are ended by whoever has them."""
        _end_group(self._process.pid)
        self._control.close()
        try:
            self._process.wait(_REAPING_SECONDS)
        except subprocess.TimeoutExpired:
            pass


def _environment() -> dict[str, str]:
    """Return the environment of a worker, without the name of the test that asks for it."""
    return {name: value for name, value in worker_environment(None).items() if name != "PYTEST_CURRENT_TEST"}


def _number(status: int) -> int:
    """Return the number of a new worker, which it tells when it leads a group of its own.

    Raises:
        OSError: It tells none.
    """
    told = b""
    while not told.endswith(b"\n"):  # and no further: the exit code comes next
        one = os.read(status, 1) if _has_come(_FORK_SECONDS, status) else b""
        if not one:
            message = "no worker was forked"
            raise OSError(message)
        told += one
    return int(told)


def _has_come(timeout: float | None, descriptor: int) -> bool:
    """Return whether there is something to read, or nobody left to write it."""
    poll = select.poll()  # unlike `select.select`, it takes any number of open files
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))


def _end_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended already
