"""What a pull tells about itself, and the form in which it goes over the wire (section 1 of the contract)."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from towline.model.digest import Digest

PULLING_MANIFEST = "pulling manifest"
VERIFYING = "verifying sha256 digest"
WRITING_MANIFEST = "writing manifest"
REMOVING_UNUSED = "removing unused layers"
SUCCESS = "success"

REASON = ": "
"""What stands in a status before the reason why nothing moves."""


@dataclass(frozen=True, slots=True)
class Status:
    """A step of the pull was reached; where it cannot go on yet, the reason stands behind a colon."""

    status: str

    def wire(self) -> dict[str, object]:
        """The JSON object of this event."""
        return {"status": self.status}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one blob is: `0 <= completed <= total`, in bytes."""

    digest: Digest
    total: int
    completed: int
    waiting: str = ""
    """Why nothing moves, where the pull knows and goes on trying: `waiting for HOST, …`."""

    @property
    def status(self) -> str:
        """`pulling` and the first 12 hex digits, and the reason why nothing moves if there is one."""
        status = f"pulling {self.digest.short}"
        return status + REASON + self.waiting if self.waiting else status

    def wire(self) -> dict[str, object]:
        """The JSON object of this event; `completed` is there also when it is 0."""
        return {
            "status": self.status,
            "digest": str(self.digest),
            "total": self.total,
            "completed": self.completed,
        }


@dataclass(frozen=True, slots=True)
class Failed:
    """The pull ended without success; `error` is one sentence. Only a stream's wire form ends with it."""

    error: str

    def wire(self) -> dict[str, object]:
        """The JSON object of this event."""
        return {"error": self.error}


Event = Status | Progress
"""What `towline.stream` yields."""

_encoder = msgspec.json.Encoder()


def encode(event: Status | Progress | Failed) -> bytes:
    """One line of NDJSON, its newline included."""
    return _encoder.encode(event.wire()) + b"\n"
