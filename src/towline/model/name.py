"""Model names: `[host[:port]/][namespace/]model[:tag][@sha256:<hex>]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from towline.errors import InvalidName
from towline.model.digest import Digest

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

# Length and characters of each part: the table in section 3 of the contract. `\Z`, since `$` lets a newline through.
_RULES = {
    "host": (350, re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*\Z")),
    "namespace": (80, re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*\Z")),
    "model": (80, re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")),
    "tag": (80, re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")),
}
_CHARACTERS = {
    "host": "letters, digits, '_', '-', '.' and a port",
    "namespace": "letters, digits, '_' and '-'",
    "model": "letters, digits, '_', '-' and '.'",
    "tag": "letters, digits, '_', '-' and '.'",
}
_SCHEME = re.compile(r"https?://", re.IGNORECASE)


def _check(part: str, text: str) -> None:
    longest, pattern = _RULES[part]
    if not text:
        raise InvalidName(f"invalid model name: the {part} is empty")
    if len(text) > longest:
        raise InvalidName(f"invalid model name: the {part} is longer than {longest} characters")
    if not pattern.match(text):
        raise InvalidName(
            f"invalid model name: the {part} {_shown(text)} may hold {_CHARACTERS[part]} only, "
            "and starts with a letter, a digit or '_'"
        )
    if part == "host" and not _port_is_valid(text):
        raise InvalidName(f"invalid model name: the host {_shown(text)} has no valid port after its ':'")


def _port_is_valid(host: str) -> bool:
    name, colon, port = host.partition(":")
    return bool(name) and (not colon or (port.isdigit() and len(port) < 6 and 0 < int(port) < 65536))


def _shown(text: str) -> str:
    # Cut once it is escaped: a letter beyond Unicode's first plane takes ten characters.
    shown = ascii(text)
    return shown if len(shown) <= 62 else f"{shown[:58]}...'"


@dataclass(frozen=True, slots=True)
class ModelName:
    """A whole model name. Every part keeps the rules of its kind, so none is unsafe as one step of a path.

    `digest`, when set, pins the manifest: it is not part of where the model is stored.
    """

    host: str
    namespace: str
    model: str
    tag: str
    digest: Digest | None = None

    def __post_init__(self) -> None:
        for part in _RULES:
            _check(part, getattr(self, part))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a name as people write it; parts left out get their defaults.

        Raises InvalidName with a sentence that says which part breaks which rule.
        """
        rest = _SCHEME.sub("", text, count=1) if _SCHEME.match(text) else text
        if not rest:
            raise InvalidName("invalid model name: it is empty")
        rest, at, pin = rest.partition("@")
        digest = _pinned(pin) if at else None
        *path, last = rest.split("/")
        model, colon, tag = last.partition(":")
        if not colon:
            tag = DEFAULT_TAG
        if len(path) > 2:
            raise InvalidName("invalid model name: it has too many parts; write [host/][namespace/]model[:tag]")
        if len(path) == 1 and ":" in path[0]:
            raise InvalidName(
                f"invalid model name: {_shown(path[0])} cannot be a namespace; "
                f"if it is a host, write {_shown(f'{path[0]}/{DEFAULT_NAMESPACE}/{last}')}"
            )
        host = path[0] if len(path) == 2 else DEFAULT_HOST
        namespace = path[-1] if path else DEFAULT_NAMESPACE
        return cls(host, namespace, model, tag, digest)

    @property
    def repository(self) -> str:
        """`namespace/model`, what a registry calls the repository."""
        return f"{self.namespace}/{self.model}"

    @property
    def full(self) -> str:
        """Every part, without the pin: `registry.ollama.ai/library/llama3.2:latest`."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What two names share when they mean the same model: names compare without regard to case."""
        return (self.host.lower(), self.namespace.lower(), self.model.lower(), self.tag.lower())

    def __str__(self) -> str:
        """As people write it: without the parts that are the defaults, always with the tag."""
        if self.host != DEFAULT_HOST:
            return self.full
        if self.namespace != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"


def _pinned(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except ValueError:
        raise InvalidName("invalid model name: after '@' comes sha256: and 64 lower-case hex digits") from None
