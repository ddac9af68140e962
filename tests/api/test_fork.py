"""A process that forks in the middle of a pull: as multiprocessing does, unless it is told otherwise."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path

import pytest

import towline
from tests.support import faults
from tests.support.exchanges import blob
from tests.support.models import generate
from tests.support.registry import FaultRegistry
from towline.store.layout import Layout
from towline.store.locks import FileLock


def forked(work: object) -> int:
    """Runs `work` in a child; its exit code, 0 where it returned and nothing was raised. It gets twenty seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that threads run is what this is about
        child = os.fork()
    if not child:
        signal.alarm(20)
        code = 1
        try:
            work()  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_does_not_wait_for_threads_that_it_does_not_have(registry: FaultRegistry, store_path: Path) -> None:
    model = generate(8 << 20)
    name = registry.add(model, "library/large")
    held = faults.Stall(after=1 << 20)
    registry.fail(blob(model.weights), held, times=1)
    events = towline.stream(name, models=store_path)
    next(events)
    assert held.reached.wait(20)

    def goes_on() -> None:
        with pytest.raises(towline.TowlineError, match="belongs to the process that was forked"):
            list(events)

    assert forked(goes_on) == 0
    held.release()
    assert list(events)[-1] == towline.Status("success")


def test_a_child_pulls_by_itself(registry: FaultRegistry, store_path: Path) -> None:
    model, other = generate(8 << 20), generate(1 << 20, seed=1)
    held = faults.Stall(after=1 << 20)
    registry.fail(blob(model.weights), held, times=1)
    events = towline.stream(registry.add(model, "library/large"), models=store_path)
    next(events)
    assert held.reached.wait(20)
    name = registry.add(other, "library/other")
    assert forked(lambda: towline.pull(name, models=store_path)) == 0
    held.release()
    assert list(events)[-1] == towline.Status("success")


def test_a_child_keeps_none_of_its_parents_locks(store_path: Path) -> None:
    Layout(store_path).root.mkdir()
    path = str(store_path / "lock")
    lock = FileLock(path)
    assert lock.acquire()
    ready, wake = os.pipe()
    told, tell = os.pipe()
    if not (child := os.fork()):
        signal.alarm(20)  # it does not outlive a test that fails
        os.write(tell, b"x")
        os.read(ready, 1)
        os._exit(0)
    os.read(told, 1)
    os.close(lock._file)  # type: ignore[arg-type]  # as where the parent is killed: nothing is given back in order
    lock._file = None
    other = FileLock(path)
    assert other.acquire()
    other.release()
    os.write(wake, b"x")
    os.waitpid(child, 0)
