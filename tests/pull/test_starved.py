"""No memory for one thread, once: the pull goes on with those that are there, and gets the thread a moment later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.models import Blob, Model, generate, tiny
from tests.support.pulling import Pulling, eventually
from tests.support.registry import FaultRegistry
from towline import patience, threads
from towline.errors import Starved
from towline.model.manifest import MODEL_LAYER

MIB = 1 << 20


class NoMemory:
    """What raises MemoryError in place of one thread, within its constructor: the first whose name begins with `name`
    that is to be made on a thread whose own begins with `on`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, *, on: str = "") -> None:
        self.met = False
        real = threading.Thread.__init__

        def init(thread: threading.Thread, *arguments: object, **named: object) -> None:
            here, wanted = threading.current_thread().name, str(named.get("name"))
            if not self.met and wanted.startswith(name) and here.startswith(on):
                self.met = True
                raise MemoryError
            real(thread, *arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(threading.Thread, "__init__", init)


@pytest.mark.parametrize("on", ["towline-receive", "towline-pull"], ids=["on one of the pool", "on the pull's own"])
def test_work_that_was_chosen_is_done_all_the_same(
    registry: FaultRegistry, pulling: Pulling, monkeypatch: pytest.MonkeyPatch, on: str
) -> None:
    model = Model.of([Blob.of(MODEL_LAYER, generate(3 * MIB, seed=seed).weights.data) for seed in range(4)])
    failure = NoMemory(monkeypatch, "towline-receive", on=on)
    pulling.pull(registry.add(model, "library/model"), model)
    assert failure.met


def test_signs_of_life_are_given_a_moment_later(
    registry: FaultRegistry, pulling: Pulling, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = generate(3 * MIB)
    held = Stall(after=MIB)
    registry.fail(blob(model.weights), held, times=1)
    failure = NoMemory(monkeypatch, "towline-sign")
    following = pulling.start(registry.add(model, "library/model"))
    assert held.reached.wait(20)
    assert failure.met
    eventually(
        lambda: any(thread.name.startswith("towline-sign") for thread in threading.enumerate()), "a thread that signs"
    )
    held.release()
    following.finish(model)


def test_a_pull_that_no_thread_ever_takes_up_says_what_lacks(
    registry: FaultRegistry, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = threads.start

    def start(target: Callable[[], None], name: str) -> threading.Thread:
        if name.startswith("towline-receive"):
            raise Starved("")
        return real(target, name)

    monkeypatch.setattr(threads, "start", start)
    monkeypatch.setattr(patience, "LASTING", 0.1)
    with Pulling(store_path, stall_timeout=0.5) as pulling:
        assert "ulimit -v" in str(pulling.fail(registry.add(tiny(), "library/tiny")))
