"""Python processes for tests that are not about processes: forked from a server that has imported torch already.

A trial's process spends five seconds on imports and less than one on a tiny training, and so does a run of pytest
that loads a model. The server imports once, and then forks for each process: a worker of a trial, a run of pytest
that a test starts, a worker of xdist in that run. Everything else is as without it: a process, with a group, pipes and
an end of its own, and with no module or file of the test's project in it.

As a plugin of pytest (`-p tests.warm`) this module lets the run use the server that the environment names. Tests of
how processes start, are limited and die take the fixture `cold`. PYTEST_DONT_REWRITE: it is imported before that.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any, Final, NoReturn

__all__ = [
    "PLACE",
    "WarmProcess",
    "pytest_configure",
    "serve",
    "started_server",
    "warm_subprocess",
    "without_collections",
]

# The environment variable that names the server's socket.
PLACE: Final = "TESTS_WARM_WORKERS"
WORKER: Final = "pytest_ftguard.running.local.worker"
_ROOT: Final = Path(__file__).parents[1]
# What is read when a process or a library starts: a process with other values than the server's has to start itself.
_AT_START: Final = ("HF_HUB_OFFLINE", "HF_HOME", "CUDA_VISIBLE_DEVICES", "LC_ALL", "PYTHONUTF8")
_THREADS: Final = "OMP_NUM_THREADS"
_MOST_DESCRIPTORS: Final = 8
# The path of a Python without PYTHONPATH is that of the processes, each of which adds its own.
_SERVER: Final = """
import sys
paths = list(sys.path)
sys.path += sys.argv[2:]
from tests.warm import serve
serve(sys.argv[1], paths)
"""


def pytest_configure() -> None:
    """Let the server fork the workers of this run, and those of xdist."""
    from execnet import gateway_base

    from pytest_ftguard.running.local import forker, process

    process.subprocess = forker.subprocess = warm_subprocess()  # type: ignore[attr-defined]
    gateway_base.ThreadExecModel.subprocess = warm_subprocess()  # type: ignore[method-assign]


def warm_subprocess() -> Any:
    """Return what stands for the module `subprocess` in modules that start Python."""
    return SimpleNamespace(**{**vars(subprocess), "Popen": _start})


def _start(command: Sequence[str], **options: Any) -> WarmProcess | subprocess.Popen[bytes]:
    environment: Mapping[str, str] = options.get("env") or os.environ
    differs = any(environment.get(name) != os.environ.get(f"{PLACE}_{name}") for name in _AT_START)
    if PLACE not in os.environ or differs or _THREADS not in environment or command[0] != sys.executable:
        return subprocess.Popen(command, **options)
    return WarmProcess(command[1:], environment, **options)


class WarmProcess:
    """What callers here need of `subprocess.Popen`, for a Python process that the server forks.

    Args:
        arguments: Those of Python.
        environment: Its environment variables.
        stdin: Its standard input: a file, PIPE, DEVNULL, or None for the caller's.
        stdout: Its standard output, likewise.
        stderr: Its standard error, a file, DEVNULL, None, or STDOUT for the place where standard output goes.
        pass_fds: A descriptor that it inherits; it may have another number there, which stands in the arguments.
        cwd: Its working folder; None means the caller's.
        options: Of `subprocess.Popen`, and without effect: every process leads a session of its own.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        pass_fds: Sequence[int] = (),
        cwd: str | Path | None = None,
        **options: object,
    ) -> None:
        assert set(options) <= {"start_new_session", "env"}
        theirs = [os.open(os.devnull, os.O_RDWR)]
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        if stdin == subprocess.PIPE:
            reading, writing = os.pipe()
            theirs.append(reading)
            self.stdin = os.fdopen(writing, "wb")
        else:
            reading = _descriptor(stdin, 0, theirs[0])
        if stdout == subprocess.PIPE:
            ending, output = os.pipe()
            theirs.append(output)
            self.stdout = os.fdopen(ending, "rb")
        else:
            output = _descriptor(stdout, 1, theirs[0])
        error = output if stderr == subprocess.STDOUT else _descriptor(stderr, 2, theirs[0])
        request = {
            "arguments": list(arguments),
            "passed": [str(number) for number in pass_fds],
            "environment": dict(environment),
            "folder": str(cwd or Path.cwd()),
        }
        content = json.dumps(request).encode()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(os.environ[PLACE])
        socket.send_fds(self._server, [len(content).to_bytes(4, "big")], [reading, output, error, *pass_fds])
        self._server.sendall(content)
        for descriptor in theirs:
            os.close(descriptor)
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
                raise subprocess.TimeoutExpired("a warm process", timeout or 0)
            self.returncode = self._receive()
            self._server.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process."""
        self.send_signal(signal.SIGKILL)


def _descriptor(target: int | IO[Any] | None, own: int, null: int) -> int:
    """Return the descriptor that an argument of `subprocess.Popen` stands for."""
    if target is None:
        return own
    if target == subprocess.DEVNULL:
        return null
    return target if isinstance(target, int) else target.fileno()


@contextmanager
def started_server(folder: Path) -> Iterator[Mapping[str, str]]:
    """Start a server, and give the environment variables by which tests find it, until it is ended.

    It is there at once, and answers when it has imported.
    """
    from pytest_ftguard.running.local.environment import worker_environment

    place = folder / "socket"
    environment = worker_environment(None)
    source = environment.pop("PYTHONPATH").split(os.pathsep)[-1]
    server = subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVER, str(place), source, str(_ROOT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        # Threads that wait in a loop for each other would take the time of those that are waited for.
        env={**environment, "OMP_WAIT_POLICY": "passive"},
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == b"ready\n"
        names = {f"{PLACE}_{name}": environment[name] for name in _AT_START if name in environment}
        yield {PLACE: str(place), **names}
    finally:
        server.kill()  # it may not have read its standard input yet
        server.wait(60)
        server.stdin.close()
        server.stdout.close()


def serve(place: str, paths: Sequence[str]) -> None:
    """Import what processes import, and fork one for each request, until standard input ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen(64)
    print("ready", flush=True)
    _import()
    while True:
        ready, _, _ = select.select([listener.fileno(), 0], [], [], 1.0)
        _reap()
        if 0 in ready:
            return
        if listener.fileno() in ready:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _keep(connection, paths)
            connection.close()


@contextmanager
def without_collections() -> Iterator[None]:
    """Import without collecting garbage in between, and leave what was imported out of all later collections.

    Each training and each run of pytest collects garbage, up to five times, and would look at a million objects that
    stay; in a forked process it would also copy the pages that all share.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _import() -> None:
    with without_collections():
        import pytest  # noqa: F401
        import xdist.remote  # noqa: F401
        from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel, Trainer  # noqa: F401

        import pytest_ftguard

        for module in pkgutil.walk_packages(pytest_ftguard.__path__, "pytest_ftguard."):
            importlib.import_module(module.name)
        with tempfile.TemporaryDirectory() as folder:  # the first model that is loaded takes the longest
            tiny = GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=1)
            GPT2LMHeadModel(tiny).save_pretrained(folder)
            GPT2LMHeadModel.from_pretrained(folder)
        _measure_machine()


def _measure_machine() -> None:
    """Measure what the machine reaches once, not after each training, and with one thread: none outlives a fork."""
    import torch

    from pytest_ftguard.training import machine

    torch.set_num_threads(1)
    machine.flop_per_second = cache(machine.flop_per_second)
    machine.flop_per_second(torch.device("cpu"), bf16=False)


def _reap() -> None:
    """Take the ends of keepers, whose times then count as the server's."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _keep(connection: socket.socket, paths: Sequence[str]) -> NoReturn:
    """Fork a process, and tell how it ended, as its parent would be told."""
    head, descriptors, _, _ = socket.recv_fds(connection, 4, _MOST_DESCRIPTORS)
    request = json.loads(connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
    pid = os.fork()
    if pid == 0:
        os.setsid()
        connection.sendall(os.getpid().to_bytes(4, "big", signed=True))
        connection.close()
        for number, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, number)
        for descriptor in set(descriptors[:3]):
            os.close(descriptor)
        numbers = dict(zip(request["passed"], map(str, descriptors[3:]), strict=True))
        request["arguments"] = [numbers.get(argument, argument) for argument in request["arguments"]]
        _leave(lambda: _run(request, paths))
    for descriptor in descriptors:
        os.close(descriptor)
    _, status = os.waitpid(pid, 0)
    try:
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
    except BrokenPipeError:
        pass  # whoever asked for it is gone
    os._exit(0)


def _leave(main: Callable[[], None]) -> NoReturn:
    """Do the work of a process, and end it as Python ends."""
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _run(request: Mapping[str, Any], paths: Sequence[str]) -> None:
    """Do what Python does with its arguments: a flag or two, and code, the name of a module or the path of a script."""
    _become(request, paths)
    arguments, safe = request["arguments"], False
    while arguments[0] in {"-P", "-u"}:
        safe |= arguments.pop(0) == "-P"
    if not arguments[0].startswith("-"):
        sys.argv[:] = arguments
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        runpy.run_path(arguments[0], run_name="__main__")
        return
    kind, name, rest = arguments[0][:2], arguments[0][2:], arguments[1:]
    if not name:
        name, *rest = rest
    sys.argv[:] = [kind, *rest]
    if not safe:
        sys.path.insert(0, request["folder"] if kind == "-m" else "")
    if name == WORKER:
        sys.modules[WORKER].main(rest)
    elif kind == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        assert kind == "-c"
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(name, vars(main))


def _become(request: Mapping[str, Any], paths: Sequence[str]) -> None:
    """Take over the environment of the process that asked, as a new Python would have."""
    import torch

    os.environ.clear()
    os.environ.update(request["environment"])
    theirs = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*theirs, *(path for path in paths if path not in theirs)]
    os.chdir(request["folder"])
    tempfile.tempdir = None
    torch.set_num_threads(int(os.environ[_THREADS]))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]
