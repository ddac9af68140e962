"""Content addresses."""

from __future__ import annotations

import hashlib
import re
from typing import Self

import msgspec

_HEX = re.compile(r"[0-9a-f]{64}\Z")


class Digest(msgspec.Struct, frozen=True, order=True):
    """A SHA-256 content address, the only algorithm that the registries of models use.

    `hex` is 64 lower-case hex digits; nothing else can be in it, so it is safe in a path and a URL.
    """

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.match(self.hex):
            raise ValueError(f"not a sha256 digest: {self.hex[:80]!r}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `sha256:<hex>`. Raises ValueError for anything else."""
        algorithm, colon, encoded = text.partition(":")
        if algorithm != "sha256" or not colon:
            raise ValueError(f"not a sha256 digest: {text[:80]!r}")
        return cls(encoded)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The address of these bytes."""
        return cls(hashlib.sha256(data).hexdigest())

    @property
    def short(self) -> str:
        """The first 12 hex digits, as progress lines show them."""
        return self.hex[:12]

    @property
    def file_name(self) -> str:
        """How Ollama's store names the blob: `sha256-<hex>`."""
        return f"sha256-{self.hex}"

    def __str__(self) -> str:
        return f"sha256:{self.hex}"
