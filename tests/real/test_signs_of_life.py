"""A watcher hears something every second, whatever the pull does: it can tell slow from dead."""

from __future__ import annotations

import time

import pytest

from tests.server.support import keep
from tests.support.daemon import Daemon, PullStream
from tests.support.exchanges import blob, manifest
from tests.support.faults import Delay, Stall
from tests.support.models import Blob, Model, generate, tiny
from tests.support.registry import FaultRegistry

LONGEST = 2.0
"""Seconds between two lines: one is promised, and half of that kept; the rest is for a busy machine."""


def longest_silence(stream: PullStream, *, lines: int | None = None) -> float:
    """The longest time between two of the next lines, so many or all."""
    longest = 0.0
    last = time.monotonic()
    for number, _ in enumerate(stream, 1):
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        if number == lines:
            break
    return longest


def test_while_a_registry_thinks_of_its_manifest(registry: FaultRegistry, daemon: Daemon) -> None:
    registry.fail(manifest(), Delay(7), times=1)
    with daemon.pulling(registry.add(tiny(), "library/tiny")) as stream:  # answered after the four seconds
        assert longest_silence(stream) < LONGEST
        assert stream.lines.count({"status": "pulling manifest"}) > 2
        stream.finish(model=tiny())


@pytest.mark.parametrize("interleave", [False, True])
def test_while_no_byte_comes(registry: FaultRegistry, daemon: Daemon, interleave: bool) -> None:
    model = generate(4 << 20, seed=51)
    stall = Stall(after=1 << 20)
    registry.fail(blob(model.weights), stall, times=None)
    with daemon.pulling(registry.add(model, "library/model"), interleave=interleave) as stream:
        stream.until_completed(1 << 20)
        assert longest_silence(stream, lines=6) < LONGEST
        assert stream.lines[-1]["completed"] < stream.lines[-1]["total"]
        stall.release()
        stream.finish(model=model, interleaved=interleave)


@pytest.mark.parametrize("interleave", [False, True])
def test_while_thousands_of_layers_are_compared_and_published(
    registry: FaultRegistry, daemon: Daemon, interleave: bool
) -> None:
    model = Model.of([Blob.of("x", b"%d" % number) for number in range(5000)])
    name = registry.add(model, "library/crowd")
    keep(daemon.store, name, model)
    with daemon.pulling(name, interleave=interleave) as stream:
        assert longest_silence(stream) < LONGEST
        stream.finish(model=model, interleaved=interleave)
