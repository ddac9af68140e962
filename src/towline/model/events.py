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


@dataclass(frozen=True, slots=True)
class Status:
    """A step of the pull was reached."""

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

    @property
    def status(self) -> str:
        """`pulling` and the first 12 hex digits."""
        return f"pulling {self.digest.short}"

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
