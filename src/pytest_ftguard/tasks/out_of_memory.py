"""Whether an error means that memory ran out, which libraries say in several ways."""

from __future__ import annotations

import re

import torch

from pytest_ftguard.units import format_bytes

__all__ = ["is_out_of_memory", "what_was_lacking"]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out, of the device or of the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "DefaultCPUAllocator: can't allocate memory" in str(error)


def what_was_lacking(error: BaseException) -> str:
    """Return what such an exception says, in one line; the CPU's hides the size between an assertion and a code."""
    text = str(error)
    asked = re.search(r"DefaultCPUAllocator: .*you tried to allocate (\d+) bytes", text)
    if asked:
        return f"the CPU's allocator could not get {format_bytes(int(asked[1]))}"
    return text.splitlines()[0] if text else "the process could not get more memory"
