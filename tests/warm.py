"""Workers for tests that are not about processes: forked from a server that has imported torch already.

A trial's process spends five seconds on imports and less than one on a tiny training. The server imports once, and
then forks for each worker that a test's pytest starts. Everything else is as without it: one process a trial, with a
process group, a log, pipes and an end of its own.

As a plugin of pytest (`-p tests.warm`) this module lets the run use the server that the environment names. Tests of
how processes start, are limited and die take the fixture `cold`. PYTEST_DONT_REWRITE: it is imported before that.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Final

__all__ = ["PLACE", "WarmProcess", "pytest_configure", "serve", "started_server", "warm_subprocess"]

# The environment variable that names the server's socket.
PLACE: Final = "TESTS_WARM_WORKERS"
_ROOT: Final = Path(__file__).parents[1]
_REQUEST_BYTES: Final = 1 << 20
# What is read when a process or a library starts: a worker with other values than the server's has to start itself.
_AT_START: Final = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "HF_HOME", "CUDA_VISIBLE_DEVICES", "LC_ALL", "PYTHONUTF8")


def pytest_configure() -> None:
    """Let the workers of this run be forked by the server."""
    from pytest_ftguard.running.local import process

    process.subprocess = warm_subprocess()  # type: ignore[attr-defined]


def warm_subprocess() -> Any:
    """Return what stands for the module `subprocess` where workers are started."""
    return SimpleNamespace(**{**vars(subprocess), "Popen": _start})


def _start(command: Sequence[str], **options: Any) -> WarmProcess | subprocess.Popen[bytes]:
    environment: Mapping[str, str] = options["env"]
    if PLACE not in os.environ or any(environment.get(name) != os.environ.get(f"{PLACE}_{name}") for name in _AT_START):
        return subprocess.Popen(command, **options)
    assert command[1:4] == ["-P", "-m", "pytest_ftguard.running.local.worker"]
    (events,) = options["pass_fds"]
    return WarmProcess(command[5:], events, options["stdout"], environment)


class WarmProcess:
    """What a worker needs of `subprocess.Popen`, for a process that the server forks.

    Args:
        arguments: The worker's arguments behind the descriptor of its events.
        events: The descriptor that it writes events to.
        log: The file that it writes its output to.
        environment: Its environment variables.
    """

    def __init__(self, arguments: Sequence[str], events: int, log: IO[bytes], environment: Mapping[str, str]) -> None:
        reading, writing = os.pipe()
        self.stdin = os.fdopen(writing, "wb")
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(os.environ[PLACE])
        request = {"arguments": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())}
        content = json.dumps(request).encode()
        socket.send_fds(self._server, [len(content).to_bytes(4, "big")], [reading, events, log.fileno()])
        self._server.sendall(content)
        os.close(reading)
        self.returncode: int | None = None
        self.pid = self._receive()

    def _receive(self) -> int:
        content = self._server.recv(4, socket.MSG_WAITALL)
        return int.from_bytes(content, "big", signed=True)

    def poll(self) -> int | None:
        """Return how the process ended, None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return how the process ended, as soon as it has."""
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("worker", timeout or 0)
            self.returncode = self._receive()
            self._server.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)


@contextmanager
def started_server(folder: Path) -> Iterator[Mapping[str, str]]:
    """Start a server, and give the environment variables by which tests find it, until it is ended."""
    from pytest_ftguard.running.local import process

    place = folder / "socket"
    environment = process._environment(None)
    paths = os.pathsep.join([environment["PYTHONPATH"], str(_ROOT)])
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.warm", str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**environment, "PYTHONPATH": paths},
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == b"ready\n"
        names = {f"{PLACE}_{name}": environment[name] for name in _AT_START if name in environment}
        yield {PLACE: str(place), **names}
    finally:
        server.stdin.close()
        server.wait(60)
        server.stdout.close()


def serve(place: str) -> None:
    """Import what workers import, and fork one for each request, until standard input ends."""
    from transformers import ByT5Tokenizer, GPT2LMHeadModel, Trainer  # noqa: F401

    from pytest_ftguard.running.local import worker
    from pytest_ftguard.training import trial  # noqa: F401

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen(64)
    gc.collect()
    gc.freeze()  # so that no collection copies the pages that all share
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listener.fileno(), 0], [], [], 1.0)
        _reap()
        if 0 in ready:
            return
        if listener.fileno() in ready:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _keep(connection, worker.main)
            connection.close()


def _reap() -> None:
    """Take the ends of keepers, whose times then count as the server's."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _keep(connection: socket.socket, main: Callable[[list[str]], None]) -> None:
    """Fork a worker, and tell how it ended, as its parent would be told."""
    head, (reading, events, log), _, _ = socket.recv_fds(connection, 4, 3)
    request = json.loads(connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
    pid = os.fork()
    if pid == 0:
        os.setsid()
        connection.sendall(os.getpid().to_bytes(4, "big", signed=True))
        connection.close()
        for descriptor, number in ((reading, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, number)
        os.close(reading)
        os.close(log)
        try:
            _become(request)
            main([str(events), *request["arguments"]])
        except BaseException:
            traceback.print_exc()
        os._exit(1)  # a worker that has done its job does not return
    for descriptor in (reading, events, log):
        os.close(descriptor)
    _, status = os.waitpid(pid, 0)
    try:
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
    except BrokenPipeError:
        pass  # whoever asked for it is gone
    os._exit(0)


def _become(request: Mapping[str, Any]) -> None:
    """Take over the environment of the process that asked, as a new Python would have."""
    ours = os.environ["PYTHONPATH"].split(os.pathsep)
    os.environ.clear()
    os.environ.update(request["environment"])
    theirs = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*theirs, *(path for path in sys.path if path not in ours)]
    os.chdir(request["folder"])
    tempfile.tempdir = None
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]


if __name__ == "__main__":
    serve(sys.argv[1])
