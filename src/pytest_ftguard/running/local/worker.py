"""The process of one trial: a job in on standard input, progress events and a file with the answer out.

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
from typing import Any, NoReturn

from pytest_ftguard.files import write_whole
from pytest_ftguard.running import work
from pytest_ftguard.running.executor import Answer, DescribeJob, Event

__all__ = ["main"]

Message = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Import, wait for the job, do it, and leave."""
    send = _sender(int(arguments[0]))
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read_standard_input, args=(inbox, Path(arguments[1])), daemon=True).start()
    # The parent asks for the stacks with this signal before it kills a worker that takes too long.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    _use_one_device()
    work.prepare()
    send({"message": "ready"})

    def report(event: Event) -> None:
        send({"message": "event", **asdict(event)})

    def wait_for_quiet() -> None:
        send({"message": "wait"})
        inbox.get()  # the parent's "go"

    while True:
        order = inbox.get()
        answer = work.answer_to(order["job"], report, wait_for_quiet)
        if order["job"]["job"] != DescribeJob.kind:
            _leave(answer, Path(order["answer_path"]))
        send({"message": "answer", "answer": answer.to_dict()})


def _leave(answer: Answer, path: Path) -> NoReturn:
    """Leave the answer for the parent, and end the process."""
    write_whole(path, json.dumps(answer.to_dict()))
    sys.stdout.flush()
    sys.stderr.flush()
    # The answer is on disk: leaving at once spares the second that taking a large torch process apart costs.
    os._exit(0)


def _sender(descriptor: int) -> Callable[[Message], None]:
    def send(message: Message) -> None:
        os.write(descriptor, json.dumps(message).encode() + b"\n")  # one write below PIPE_BUF: lines never mix

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


if __name__ == "__main__":
    main(sys.argv[1:])
