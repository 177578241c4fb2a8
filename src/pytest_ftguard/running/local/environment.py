"""The environment variables of a worker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["KEEP_FREED_MEMORY", "worker_environment"]

# glibc gives large freed blocks back to the kernel at once; keeping them spares a training step on the CPU the
# page faults of getting them again.
KEEP_FREED_MEMORY: Final = {"MALLOC_MMAP_THRESHOLD_": str(4 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}
# Left behind by `accelerate launch`, torchrun or mpirun around pytest, these would change the precision of a trial, or
# make it wait for processes that are not its own.
_LAUNCHER_PREFIXES: Final = ("ACCELERATE_", "FSDP_", "MASTER_", "OMPI_", "PMI_", "MV2_", "TORCHELASTIC_")
_LAUNCHER_NAMES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")


def worker_environment(device: str | None) -> dict[str, str]:
    """Return the environment of a worker.

    Args:
        device: The one device that it sees, as CUDA_VISIBLE_DEVICES takes it; None leaves it as it is.
    """
    # The folder that holds this package, for a source tree that is on sys.path but not on PYTHONPATH.
    source = str(Path(__file__).parents[3])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != source]
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _LAUNCHER_NAMES and not name.startswith(_LAUNCHER_PREFIXES)
    }
    return {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **KEEP_FREED_MEMORY,
        **inherited,
        "PYTHONPATH": os.pathsep.join([*paths, source]),
        "PYTHONUNBUFFERED": "1",
        **({} if device is None else {"CUDA_VISIBLE_DEVICES": device}),
    }
