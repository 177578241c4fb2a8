"""What in a store is believed: everything, only what is signed with a key, or nothing that earlier runs left."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from pytest_ftguard.errors import FtguardError

__all__ = ["Trust", "UnsignedError"]


class UnsignedError(FtguardError):
    """Something has no signature, or one by another key."""


@dataclass(frozen=True)
class Trust:
    """What is believed.

    Attributes:
        reads: Whether anything is believed that an earlier run left; protected mode is without it.
        signing_key: Key of the signatures; None if there is none.
        requires_signature: Whether only what has a valid signature is believed.
    """

    reads: bool = True
    signing_key: bytes | None = field(default=None, repr=False)
    requires_signature: bool = False

    @property
    def of_notes(self) -> bool:
        """Whether notes are believed, such as remembered digests: they are as good as results, and are not signed."""
        return self.reads and not self.requires_signature

    def sign(self, text: str) -> str | None:
        """Return the signature of a text; None without a key."""
        return None if self.signing_key is None else hmac.new(self.signing_key, text.encode(), "sha256").hexdigest()

    def check(self, text: str, signature: object, what: str = "it has") -> None:
        """Check the signature of a text, if one is required.

        Args:
            text: What was signed.
            signature: What is said to be its signature.
            what: How the message begins.

        Raises:
            UnsignedError: It is not the one by this key.
        """
        if not self.requires_signature:
            return
        expected = self.sign(text)
        if expected is None or not hmac.compare_digest(str(signature), expected):
            message = f"{what} no valid signature by this key"
            raise UnsignedError(message)
