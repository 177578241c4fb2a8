"""What a trained model comes to in the forms in which it leaves the training: saved, merged, exported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pytest_ftguard.errors import ConfigurationError

__all__ = ["DTYPES", "FormLosses", "Shipping"]

DTYPES: Final = ("bf16", "fp16", "fp32")
"""The types of weights that a merged model can be saved in."""

_FUNCTION: Final = re.compile(r"[\w.]+:[\w.]+")


@dataclass(frozen=True)
class Shipping:
    """How a trained model is shipped.

    Attributes:
        dtype: Type of the weights of the merged model: one of `DTYPES`.
        deploy: A function of the user's, "module:function", that exports and loads the merged model in its place; None
            if there is none.
    """

    dtype: str = "bf16"
    deploy: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: One is wrong.
        """
        if self.dtype not in DTYPES:
            message = f"the dtype of a merged model must be {', '.join(map(repr, DTYPES))}, got {self.dtype!r}"
            raise ConfigurationError(message)
        if self.deploy is not None and not (isinstance(self.deploy, str) and _FUNCTION.fullmatch(self.deploy)):
            message = f'deploy must name a function of yours as "module:function", got {self.deploy!r}'
            raise ConfigurationError(message)


@dataclass(frozen=True, kw_only=True)
class FormLosses:
    """The losses of a trained model in one form, on the validation examples.

    Attributes:
        form: What was done with it, for example "merged, saved in bf16 and reloaded".
        nll: Summed negative log-likelihood of each example, in nats; None if the form could not be made or evaluated.
        digest: SHA-256 of the examples.
        cause: Why it could not be made or evaluated; None if it could.
        changed: Names of tensors that are not what they were before they were saved.
    """

    form: str
    nll: tuple[float, ...] | None = None
    digest: str = ""
    cause: str | None = None
    changed: tuple[str, ...] = ()
