"""Which accelerator this machine has, found out without initialising one in the present process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pytest_ftguard.errors import FtguardError

__all__ = ["CPU_SLOT", "device_slots", "find_accelerator", "has_driver"]

_PROBE: Final = """
import torch
found = torch.accelerator.current_accelerator(check_available=True)
print(f"ftguard:{found.type if found else ''}")
"""
_PROBE_SECONDS: Final = 120
_DEVICES: Final = Path("/dev")
# Those of NVIDIA, of AMD, and of a Windows subsystem.
_OF_DRIVERS: Final = ("nvidia*", "kfd", "dxg")

CPU_SLOT: Final = "cpu"
"""The lease of a training on the processor, or on the only device of its kind."""


def device_slots(device: str, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the names of the devices of which one is enough for a trial, as CUDA_VISIBLE_DEVICES takes them.

    Those that the caller hides are left out.

    Args:
        device: "auto" or a device of torch.
        environment: Environment variables.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        found = [path for path in _DEVICES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
        names = [str(number) for number in range(len(found))]
    else:
        names = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return (CPU_SLOT,) if device.partition(":")[0] not in ("auto", "cuda") or not names else tuple(names)


def has_driver() -> bool:
    """Return whether Linux has the driver of an accelerator, by its device files."""
    return any(next(_DEVICES.glob(name), None) for name in _OF_DRIVERS)


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
