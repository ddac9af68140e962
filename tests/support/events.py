"""The one check of what a pull says: section 1 of the contract. Every pull that a test makes goes through it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.models import Blob, Model
from tests.support.planted import look_for_secrets
from towline.model.digest import Digest
from towline.model.events import REASON, WAITING

Line = dict[str, Any]

_PHASES = (
    "pulling manifest",
    "pulling",
    "verifying sha256 digest",
    "writing manifest",
    "removing unused layers",
    "success",
)
_PULLING = 1
_OPTIONAL = {"removing unused layers"}
_DIGEST = re.compile(r"sha256:([0-9a-f]{64}|model)")
_WAITING = re.compile(re.escape(REASON + WAITING) + r"[^\n]+")
_TENSOR = "application/vnd.ollama.image.tensor"
WHOLE_MODEL = "sha256:model"
"""What stands for the digest where a model of thousands of tensors is told as one."""


@dataclass
class Pull:
    """What the lines of one pull say, once they are known to be in order."""

    lines: Sequence[Line] = field(repr=False)
    steps: list[str]
    """The statuses in their order, each once; the layers' are one step, `pulling`."""
    completed: dict[str, list[int]]
    """For each digest (`sha256:…`) every value of `completed`, in order."""
    totals: dict[str, int]
    error: str | None

    def first(self, blob: Blob) -> int:
        """What was on disk already when the blob was known."""
        return self.completed[str(blob.digest)][0]

    @property
    def fetched(self) -> set[Digest]:
        """The blobs that were not whole already when the pull began."""
        return {Digest.parse(digest) for digest, values in self.completed.items() if values[0] < self.totals[digest]}


def check_pull(
    lines: Sequence[Line], *, success: bool = True, model: Model | None = None, interleaved: bool = False
) -> Pull:
    """Asserts that the lines of a streamed pull, parsed, keep order and monotony; returns what they say.

    With `success` False the pull has to fail, and its last line is the error. With a model, the digests and totals
    are that model's: all of them, if the pull succeeds. The events of one digest have to stand together, in the
    manifest's order, unless they were asked for `interleaved`.
    """
    assert lines, "the stream is empty"
    body, error = (lines, None) if success else (lines[:-1], _error(lines[-1]))
    pull = Pull(lines, _steps(body), {}, {}, error)
    for number, line in _progress(body):
        _check_progress(pull, number, line)
    if not interleaved:
        _check_order(body)
    if success:
        _check_success(pull, lines)
    if model:
        _check_model(pull, _told(model, interleaved=interleaved), complete=success, ordered=not interleaved)
    return pull


def _steps(lines: Sequence[Line]) -> list[str]:
    """The phases that were gone through, in order; a line may come again, as a sign of life."""
    steps: list[str] = []
    for number, line in enumerate(lines):
        assert isinstance(line, dict), f"line {number} is no object: {line!r}"
        assert "error" not in line, f"line {number} of {len(lines)} is an error: {line}"
        assert isinstance(line.get("status"), str), f"line {number} has no status: {line}"
        step = "pulling" if "digest" in line else _WAITING.sub("", line["status"])
        assert step in _PHASES, f"line {number} has a status outside the contract: {line}"
        if step != "pulling":
            assert line.keys() == {"status"}, f"line {number} holds more than its status: {line}"
        if not steps or step != steps[-1]:
            assert not steps or _PHASES.index(step) > _PHASES.index(steps[-1]), (
                f"line {number} goes back from {steps[-1]!r} to {step!r}"
            )
            steps.append(step)
    assert not lines or steps[0] == _PHASES[0], f"the first line is not {_PHASES[0]!r}: {lines[0]}"
    return steps


def _progress(lines: Sequence[Line]) -> Iterator[tuple[int, Line]]:
    return ((number, line) for number, line in enumerate(lines) if "digest" in line)


def _check_progress(pull: Pull, number: int, line: Line) -> None:
    where = f"line {number}, {line}:"
    assert line.keys() == {"status", "digest", "total", "completed"}, f"{where} not the fields of a layer's line"
    digest, total, completed = line["digest"], line["total"], line["completed"]
    assert isinstance(digest, str), f"{where} the digest is no string"
    assert _DIGEST.fullmatch(digest), f"{where} the digest is not sha256 and 64 hex digits"
    assert _WAITING.sub("", line["status"]) == f"pulling {digest[7:19]}", f"{where} the status is not the digest's"
    assert type(total) is int, f"{where} total is not an integer"
    assert type(completed) is int, f"{where} completed is not an integer"
    assert 0 <= completed <= total, f"{where} completed is outside 0…total"
    assert pull.totals.setdefault(digest, total) == total, f"{where} total was {pull.totals[digest]} before"
    values = pull.completed.setdefault(digest, [])
    assert not values or completed >= values[-1], f"{where} completed fell from {values[-1]}"
    values.append(completed)


def _check_success(pull: Pull, lines: Sequence[Line]) -> None:
    for step in _PHASES:
        assert step in pull.steps or step in _OPTIONAL, f"there is no {step!r} among {pull.steps}"
    assert [line["status"] for line in lines].count("success") == 1, "success came more than once"
    assert lines[-1] == {"status": "success"}, f"the last line is not success: {lines[-1]}"
    for digest, values in pull.completed.items():
        total = pull.totals[digest]
        assert values[-1] == total, f"{digest} ended at {values[-1]} of {total}"


def _check_order(lines: Sequence[Line]) -> None:
    """A client closes a layer's bar when the digest changes: it is whole then, and never comes again."""
    closed: set[str] = set()
    previous: Line | None = None
    for number, line in _progress(lines):
        if previous is not None and line["digest"] != previous["digest"]:
            assert previous["completed"] == previous["total"], f"line {number}, {line}: {previous} was not whole yet"
            closed.add(previous["digest"])
        assert line["digest"] not in closed, f"line {number}, {line}: the layer was closed before"
        previous = line


def _told(model: Model, *, interleaved: bool) -> dict[str, int]:
    """The digests of a whole stream, in their order, and their totals."""
    if not interleaved and any(layer.media_type == _TENSOR for layer in model.layers):
        return {WHOLE_MODEL: model.size}
    return {str(blob.digest): blob.size for blob in model.blobs}


def _check_model(pull: Pull, expected: dict[str, int], *, complete: bool, ordered: bool) -> None:
    for digest, total in pull.totals.items():
        assert expected.get(digest) == total, f"{digest} with total {total} is not of the model: {expected}"
    if complete:
        assert pull.totals.keys() == expected.keys(), f"no line for {expected.keys() - pull.totals.keys()}"
    if ordered:
        told = list(pull.totals)
        assert told == list(expected)[: len(told)], f"not the manifest's order: {told}"


def _error(line: Line) -> str:
    assert isinstance(line, dict), f"the last line is no object: {line!r}"
    assert line.keys() == {"error"}, f"the last line of a pull that fails holds its error alone: {line}"
    text = line["error"]
    assert isinstance(text, str), f"the error is no string: {line}"
    assert text.strip(), "the error is empty"
    check_sentence(text)
    return text


def check_sentence(text: str) -> None:
    """Asserts what every error promises: one line, with no signed address, credential or traceback in it."""
    look_for_secrets(text)
    assert "\n" not in text, f"more than one line: {text!r}"
    assert "Traceback" not in text, f"a traceback: {text!r}"
    assert not re.search(r"\?\w+=|[?&]sig=|Bearer \S|Basic \S|://[^/\s]*@", text), f"it leaks: {text!r}"
