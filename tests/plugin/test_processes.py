"""However pytest ends, no worker is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

NAMES = {"pytest_ftguard.running.local.worker", "pytest_ftguard.running.local.fork_server"}


def workers(pytest_process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        children = psutil.Process(pytest_process.pid).children(recursive=True)
        return [child for child in children if NAMES & set(child.cmdline())]
    except psutil.Error:
        return []


def wait_for(condition: object, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.1)
    return False


@pytest.mark.torch
@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGINT"])
def test_no_worker_outlives_pytest(project: pytest.Pytester, name: str) -> None:
    """The worker that trains and what forks the next one end with pytest amid a trial, and leave no files behind."""
    project.makepyfile("def test_it(full_variant, lora_variant): pass")
    command = [sys.executable, "-m", "pytest", "-o", "ftguard_steps=1000000", "-p", "no:cacheprovider"]
    # A shell lets what it runs in the background ignore SIGINT, and all that starts from there inherits it.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=project.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    signal.signal(signal.SIGINT, ours)
    try:
        assert wait_for(lambda: len(workers(process)) == 2, 120), (
            "the present worker and what forks the next one were not started"
        )
        found = workers(process)
        scratch = {Path(worker.cmdline()[-1]) for worker in found}
        assert all(folder.is_dir() for folder in scratch)
        process.send_signal(signal.Signals[name])
        process.wait(30)
        assert wait_for(lambda: not any(worker.is_running() for worker in found), 10)
        assert wait_for(lambda: not any(folder.exists() for folder in scratch), 10), "files were left behind"
    finally:
        process.kill()
        process.wait()
