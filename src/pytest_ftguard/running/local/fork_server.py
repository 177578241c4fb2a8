"""The process that has imported what a training needs, and from which workers are forked.

Started as `python -m pytest_ftguard.running.local.fork_server CONTROL SCRATCH`. It never trains, and it loads
nothing of the user's, so each worker begins with the modules of libraries and with nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import shutil
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np

from pytest_ftguard.running import work
from pytest_ftguard.running.local import worker

__all__ = ["main"]

_MOST_BYTES: Final = 1 << 16
_DESCRIPTORS: Final = 4
_TICK_MILLISECONDS: Final = 200


def main(arguments: list[str]) -> None:
    """Import, and fork a worker for each request, until whoever asks is gone."""
    control, scratch = socket.socket(fileno=int(arguments[0])), Path(arguments[1])
    imported = threading.Event()
    watch = threading.Thread(target=_end_with_pytest, args=(control, scratch, imported), daemon=True)
    watch.start()
    work.prepare()
    imported.set()
    watch.join()  # a thread would be lost by a fork
    if not _may_fork():
        return
    try:
        control.send(b"ready")
        _serve(control, scratch)
    except ConnectionError:
        pass
    _leave(scratch)


def _end_with_pytest(control: socket.socket, scratch: Path, imported: threading.Event) -> None:
    """End this process if pytest is gone before the imports are done."""
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    while not imported.is_set():
        if poll.poll(_TICK_MILLISECONDS):  # nothing is asked for before it is ready, so this is the end
            _leave(scratch)


def _leave(scratch: Path) -> NoReturn:
    """End this process after pytest; its workers do the same."""
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def _may_fork() -> bool:
    """Return whether a fork loses no thread of Python and breaks no driver, and whether its end can be waited for.

    Threads of libraries are left to the libraries: those that torch brings begin anew in a process that was forked.
    """
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):  # an old kernel, or a sandbox that does not let it
        return False
    return threading.active_count() == 1 and work.is_without_driver()


def _serve(control: socket.socket, scratch: Path) -> None:
    """Fork for each request, and tell how each worker ended."""
    running: dict[int, tuple[int, int]] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), *running], [], [])
        for descriptor in ready:
            if descriptor in running:
                pid, status = running.pop(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                _tell(status, code)
                os.close(status)
                os.close(descriptor)
        if control.fileno() not in ready:
            continue
        content, theirs, _, _ = socket.recv_fds(control, _MOST_BYTES, _DESCRIPTORS)
        if not content:
            return
        pid = os.fork()
        if pid == 0:
            os.setsid()
            control.close()
            for descriptor, (_, status) in running.items():
                os.close(descriptor)
                os.close(status)
            _work(json.loads(content), theirs, scratch)
        *passed, status = theirs
        for descriptor in passed:
            os.close(descriptor)
        running[os.pidfd_open(pid)] = pid, status


def _tell(status: int, number: int) -> None:
    try:
        os.write(status, f"{number}\n".encode())
    except BrokenPipeError:
        pass  # nobody asks any more


def _work(request: dict[str, Any], theirs: list[int], scratch: Path) -> NoReturn:
    """Be the worker: with its streams, and without those of the server."""
    code = 1
    try:
        reading, log, events, status = theirs
        for descriptor, target in ((reading, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        os.close(reading)
        os.close(log)
        _tell(status, os.getpid())  # it leads its group now, so that it can be ended with all that it starts
        os.close(status)
        if not os.read(0, 1):
            os._exit(code)  # nobody waits for it any more, and what it could remove is another worker's by now
        os.chdir(request["folder"])
        importlib.invalidate_caches()  # folders may have been made since
        np.random.seed()  # as in a process that was started; the other generators do so by themselves
        worker.main([str(events), str(scratch)])
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # whatever it is, this process ends with it, and says so in its log
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
