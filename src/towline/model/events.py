"""What a pull tells about itself, and the form in which it goes over the wire (section 1 of the contract)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec

from towline.model.digest import Digest

PULLING_MANIFEST = "pulling manifest"
VERIFYING = "verifying sha256 digest"
WRITING_MANIFEST = "writing manifest"
REMOVING_UNUSED = "removing unused layers"
SUCCESS = "success"
DRY_RUN = "dry run"
"""The end of one: what was told before would not change by it."""

REASON = ": "
"""What stands in a status before the reason why nothing moves."""

WAITING = "waiting, as "
"""What such a reason begins with: `waiting, as HOST refuses connections; trying again`."""


@dataclass(frozen=True, slots=True)
class WholeModel:
    """Stands where a digest does in the events of a model of thousands of layers, which are told as one."""

    @property
    def short(self) -> str:
        """As progress lines show it."""
        return "model"

    def __str__(self) -> str:
        return "sha256:model"


WHOLE_MODEL = WholeModel()


@dataclass(frozen=True, slots=True)
class Status:
    """A step of the pull was reached; where it cannot go on yet, the reason stands behind a colon."""

    status: str

    def wire(self) -> dict[str, object]:
        """The JSON object of this event."""
        return {"status": self.status}


@dataclass(slots=True, unsafe_hash=True)
class Progress:
    """How far one blob is, or the whole model: `0 <= completed <= total`, in bytes. Shared by all who are told it, so
    nobody changes one; it says nothing of that itself, as thousands are made for some models.
    """

    digest: Digest | WholeModel
    total: int
    completed: int
    waiting: str = ""
    """Why nothing moves, where the pull knows and goes on trying: see `WAITING`."""
    _line: bytes | None = field(default=None, init=False, repr=False, compare=False)

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

    def line(self) -> bytes:
        """As `encode` gives it. Made once: whoever watches the same pull is sent the same bytes."""
        if self._line is None:
            self._line = _written(self)
        return self._line


def _written(progress: Progress) -> bytes:
    if progress.waiting or not isinstance(progress.digest, Digest):
        return _encoded(progress.wire())
    digest = progress.digest.hex  # there may be thousands of these, and nothing in one needs to be escaped
    return (
        f'{{"status":"pulling {digest[:12]}","digest":"sha256:{digest}",'
        f'"total":{progress.total},"completed":{progress.completed}}}\n'
    ).encode()


@dataclass(frozen=True, slots=True)
class Failed:
    """The pull ended without success; `error` is one sentence. Only a stream's wire form ends with it."""

    error: str

    def wire(self) -> dict[str, object]:
        """The JSON object of this event."""
        return {"error": self.error}


Event = Status | Progress
"""What `towline.stream` yields."""


def held(event: Event, reason: str) -> Event:
    """The same event with the reason why nothing moves, an empty one for none."""
    if isinstance(event, Progress):
        return replace(event, waiting=reason)
    return Status(event.status + REASON + reason) if reason else event


_encoder = msgspec.json.Encoder()


def encode(event: Status | Progress | Failed) -> bytes:
    """One line of NDJSON, its newline included."""
    return event.line() if isinstance(event, Progress) else _encoded(event.wire())


def _encoded(wire: dict[str, object]) -> bytes:
    return _encoder.encode(wire) + b"\n"


class _Line(msgspec.Struct):
    status: str | None = None
    digest: str | None = None
    total: int = 0
    completed: int = 0
    error: str | None = None


_decoder = msgspec.json.Decoder(_Line)


def decode(line: bytes) -> Status | Progress | Failed | None:
    """What a line of NDJSON tells, of towline's or of Ollama's, which leaves a `completed` of 0 out; None for one that
    says nothing that is known. Raises ValueError for one that is no event.
    """
    wire = _decoder.decode(line)
    if wire.error is not None:
        return Failed(wire.error)
    if wire.digest is not None:
        whole = wire.digest == str(WHOLE_MODEL)
        waiting = (wire.status or "").partition(REASON)[2]
        total = max(wire.total, 0)
        completed = min(max(wire.completed, 0), total)
        return Progress(WHOLE_MODEL if whole else Digest.parse(wire.digest), total, completed, waiting)
    return Status(wire.status) if wire.status is not None else None
