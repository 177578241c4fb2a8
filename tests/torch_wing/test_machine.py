"""The device and the precision that "auto" stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError
from pytest_ftguard.training import machine
from pytest_ftguard.training.machine import has_fast_bf16, resolve_device, resolve_precision


@pytest.mark.parametrize(
    ("flags", "vendor", "fast"),
    [
        (["avx512f", "avx512_bf16", "amx_bf16", "amx_tile"], "GenuineIntel", True),
        (["avx512f", "avx512_bf16"], "GenuineIntel", False),  # AMX hidden from a virtual machine
        (["avx512f", "avx512_bf16"], "AuthenticAMD", True),
        (["avx512f"], "AuthenticAMD", False),
        (["asimd", "bf16"], "", True),
        (["asimd"], "", False),
    ],
)
def test_only_units_that_are_faster_count(flags: list[str], vendor: str, fast: bool) -> None:
    """AVX-512's bf16 instructions alone are slower than fp32 on Intel's processors, so auto must not choose them."""
    assert has_fast_bf16(flags, vendor) is fast


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_precision_that_is_named_is_kept(name: str) -> None:
    """Whoever names a precision gets it on the CPU, fast or not."""
    assert resolve_precision(name, torch.device("cpu")) == name


def test_a_device_that_torch_does_not_know_is_a_configuration_error() -> None:
    """A typing error is not mistaken for a missing accelerator."""
    with pytest.raises(ConfigurationError, match="'gpu', which torch does not know"):
        resolve_device("gpu")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
def test_a_missing_device_is_named() -> None:
    """The message says what was asked for and what was found."""
    with pytest.raises(DeviceUnavailableError, match=r"'cuda'.*accelerator found: none"):
        resolve_device("cuda")
    assert resolve_device("auto") == torch.device("cpu")


def test_a_device_beyond_the_first_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial sees one device, so cuda:1 names the variable that chooses it; cuda:0 is the one it sees."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigurationError, match=r"'cuda:1'.*CUDA_VISIBLE_DEVICES"):
        resolve_device("cuda:1")


@pytest.mark.parametrize(
    ("meminfo", "limits", "expected"),
    [
        ("MemTotal: 9 kB\nMemAvailable:  2048 kB\n", {}, 2048 * 1024),
        ("MemAvailable: 2048 kB\n", {"memory.max": "1000000\n"}, 1_000_000),
        ("MemAvailable: 2048 kB\n", {"jobs/one/memory.max": "1000000\n", "memory.max": "max\n"}, 1_000_000),
        ("MemAvailable: 2048 kB\n", {"jobs/one/memory.max": "max\n", "jobs/memory.max": "900000\n"}, 900_000),
        ("MemAvailable: 2048 kB\n", {"other/memory.max": "900000\n"}, 2048 * 1024),
        ("MemAvailable: 2048 kB\n", {"memory/old/memory.limit_in_bytes": "800000\n"}, 800_000),
        ("MemAvailable: 2048 kB\n", {"memory.max": "9000000\n"}, 2048 * 1024),
        ("MemTotal: 9 kB\n", {"memory.max": "max\n"}, None),
        (None, {}, None),
    ],
)
def test_the_cpus_memory_is_what_is_available_and_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meminfo: str | None, limits: dict[str, str], expected: int | None
) -> None:
    """The limit of the process's control group, or of one that holds it, counts where it is lower; unknown is None."""
    for name, text in limits.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text("7:cpu:/old\n6:memory:/old\n0::/jobs/one\n")
    if meminfo is not None:
        (tmp_path / "meminfo").write_text(meminfo)
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "own")
    assert machine.memory_bytes(torch.device("cpu")) == expected
