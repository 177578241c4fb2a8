"""Which accelerator this machine has, found out without initialising one in the present process."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from pytest_ftguard.errors import FtguardError

__all__ = ["find_accelerator"]

_PROBE: Final = """
import torch
found = torch.accelerator.current_accelerator(check_available=True)
print(f"ftguard:{found.type if found else ''}")
"""
_PROBE_SECONDS: Final = 120


def find_accelerator() -> str | None:
    """Return the kind of accelerator that torch can use here ("cuda", ...), or None.

    torch is asked in a process of its own, which takes a few seconds.

    Raises:
        FtguardError: torch could not be asked.
    """
    try:
        command = [sys.executable, "-P", "-c", _PROBE]
        probe = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        message = f"torch did not say within {_PROBE_SECONDS} s whether there is an accelerator"
        raise FtguardError(message) from error
    answer = [line for line in probe.stdout.splitlines() if line.startswith("ftguard:")]
    if probe.returncode != 0 or not answer:
        last = next(iter(reversed(probe.stderr.strip().splitlines())), f"exit code {probe.returncode}")
        message = f"torch could not be asked for an accelerator: {last}"
        raise FtguardError(message)
    return answer[-1].removeprefix("ftguard:") or None
