"""The device and the precision of a trial, resolved once, and the environment that its result names."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import torch

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError
from pytest_ftguard.results import Environment

__all__ = [
    "describe",
    "flop_per_second",
    "has_fast_bf16",
    "is_without_driver",
    "memory_bytes",
    "resolve_device",
    "resolve_precision",
    "synchronize",
]

_PACKAGES: Final = ("pytest-ftguard", "torch", "transformers", "peft", "accelerate", "numpy")
_PRODUCTS, _PRODUCT_SECONDS = 4, 0.5
_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")
_OWN_CGROUPS: Final = Path("/proc/self/cgroup")
_CPUINFO: Final = Path("/proc/cpuinfo")


def resolve_device(name: str) -> torch.device:
    """Return the device that a name stands for; "auto" is the accelerator, if there is one.

    Raises:
        ConfigurationError: torch does not know such a device.
        DeviceUnavailableError: It is not present on this machine.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        message = f"device is {name!r}, which torch does not know: set it to auto, cpu, cuda or another device of torch"
        raise ConfigurationError(message) from error
    if device.type != "cpu" and (accelerator is None or device.type != accelerator.type):
        found = accelerator.type if accelerator else "none"
        message = f"device is {name!r}, but this machine has no such device (accelerator found: {found})"
        raise DeviceUnavailableError(message)
    if device.index:
        message = (
            f"device is {name!r}, but a trial sees the first visible device only: set it to {device.type!r}, and "
            "choose the device in the environment (CUDA_VISIBLE_DEVICES for NVIDIA's)"
        )
        raise ConfigurationError(message)
    return device


def is_without_driver() -> bool:
    """Return whether the present process holds no driver of an accelerator; the driver itself is not asked for it."""
    built_for = torch.accelerator.current_accelerator()
    if built_for is None:
        return True
    return built_for.type == "cuda" and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


def resolve_precision(name: str, device: torch.device) -> str:
    """Return "fp32" or "bf16"; "auto" is bf16 if the hardware has units that make it faster.

    Raises:
        ConfigurationError: bf16 was asked for on a GPU that only emulates it.
    """
    if name == "fp32":
        return "fp32"
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        has_bf16 = has_fast_bf16(_cpuinfo("flags", "Features").split(), _cpuinfo("vendor_id"))
    else:
        has_bf16 = False
    if name == "bf16" and device.type == "cuda" and not has_bf16:
        message = (
            f"precision is 'bf16', but {torch.cuda.get_device_name(device)} has no bf16 units: set it to fp32 or auto"
        )
        raise ConfigurationError(message)
    return "bf16" if has_bf16 or name == "bf16" else "fp32"


def has_fast_bf16(flags: Collection[str], vendor: str) -> bool:
    """Return whether a processor computes faster in bf16 than in fp32.

    AMX and Arm's bf16 instructions do, and those of AVX-512 (`avx512_bf16`) on AMD's processors do (their published
    rates say so; not measured). On Intel's those of AVX-512 alone do not: on a Xeon of model 207 with its AMX hidden,
    matrix products reached 96 to 154 GFLOPS in bf16 and 160 to 250 in fp32, and a training step of a model with 135
    million parameters took 1.7 times as long.

    Args:
        flags: What /proc/cpuinfo says under "flags" or "Features".
        vendor: What it says under "vendor_id"; empty on Arm.
    """
    return "amx_bf16" in flags or "bf16" in flags or ("avx512_bf16" in flags and vendor == "AuthenticAMD")


def _cpuinfo(*names: str) -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() in names), "")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def flop_per_second(device: torch.device, *, bf16: bool) -> float | None:
    """Return the floating-point operations a second that a device reaches in a large matrix product.

    It takes a fraction of a second: the best of a few products of two square matrices. None if there is no room for
    them: a finished training must not be lost over it.
    """
    size = 1536 if device.type == "cpu" else 8192
    seconds: list[float] = []
    try:
        # Not ones: a processor may run faster on values that never change.
        matrix = torch.rand((size, size), device=device).to(torch.bfloat16 if bf16 else torch.float32)
        while len(seconds) < _PRODUCTS and sum(seconds) < _PRODUCT_SECONDS:
            synchronize(device)
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            synchronize(device)
            seconds.append(time.perf_counter() - start)
    except RuntimeError:
        return None
    return 2 * size**3 / min(seconds)


def memory_bytes(device: torch.device) -> int | None:
    """Return the memory that a training on a device may use; None if it is not known.

    On the CPU that is what is available now, or what the process's control group allows in all, whichever is less.
    """
    if device.type != "cpu":
        module = torch.get_device_module(device)
        return (
            int(module.get_device_properties(device).total_memory) if hasattr(module, "get_device_properties") else None
        )
    available = _first_number(_MEMINFO, "MemAvailable:")
    known = [None if available is None else 1024 * available]
    known += map(_first_number, _cgroup_limits())  # in what is used of it, caches count that can go
    return min((number for number in known if number is not None), default=None)


def _cgroup_limits() -> Iterator[Path]:
    """Yield the files that limit this process's memory: those of its control group and of all that hold it."""
    try:
        lines = _OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, controllers, group in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers in ("", "memory"):  # of version 2 and version 1
            root = _CGROUP / controllers
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            inner = Path(group.lstrip("/"))
            # In a container the group's path may be that of the host, where it leads nowhere; the root is its own.
            yield from (root / folder / name for folder in (inner, *inner.parents))


def _first_number(path: Path, key: str = "") -> int | None:
    try:
        words = path.read_text(encoding="utf-8").split()
    except OSError:
        return None
    if key and key not in words:
        return None
    position = words.index(key) + 1 if key else 0
    return int(words[position]) if position < len(words) and words[position].isdigit() else None


def describe(device: torch.device, *, precision: str) -> Environment:
    """Return the environment of a trial on a device."""
    if device.type == "cpu":
        name = _cpuinfo("model name") or platform.processor() or platform.machine()
    else:
        module = torch.get_device_module(device)
        name = module.get_device_name(device) if hasattr(module, "get_device_name") else device.type
    return Environment(
        device=device.type,
        device_name=name,
        precision=precision,
        threads=torch.get_num_threads(),
        platform=f"{platform.system()} {platform.machine()}",
        versions={"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # a source tree on PYTHONPATH
