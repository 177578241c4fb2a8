"""The exceptions of pytest-ftguard; this module imports nothing."""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "DeviceUnavailableError",
    "FtguardError",
    "FtguardWarning",
    "GateFailure",
    "LimitExceeded",
]


class FtguardError(Exception):
    """Base of every error that pytest-ftguard raises, except `GateFailure`."""


class ConfigurationError(FtguardError):
    """What was asked for cannot be done; the message names the value, where it came from and what to do."""


class DeviceUnavailableError(FtguardError):
    """The device that was asked for is not present on this machine."""


class GateFailure(AssertionError):  # noqa: N818 - the name is part of the public surface
    """A gate's verdict fails the test; the message is the verdict's explanation."""


class LimitExceeded(GateFailure):
    """The verdict is FAIL: the limit is exceeded beyond doubt.

    INCONCLUSIVE and INVALID raise `GateFailure` itself. An expected failure should name this class,
    `xfail(strict=True, raises=LimitExceeded)`, so that a crashed trial is not taken for the known gap.
    """


class FtguardWarning(UserWarning):
    """Something a user should know that does not change a verdict."""
