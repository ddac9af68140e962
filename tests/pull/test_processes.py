"""Several processes over one store, some of which are killed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pull.process import PullProcess
from tests.support.events import check_pull
from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.models import Model, generate
from tests.support.pulling import Following, Pulling, eventually
from tests.support.registry import FaultRegistry
from towline import patience
from towline.store.layout import Layout, staging_key
from towline.store.staging import StagedBlob
from towline.transfer.journal import journaled_bytes

MIB = 1 << 20
SIZE = 40 * MIB


@pytest.fixture(scope="module")
def model() -> Model:
    return generate(SIZE, seed=5)


@pytest.fixture
def journaled(store_path: Path, model: Model) -> Callable[[], int]:
    """How many bytes of the weights are on disk, by the journal."""
    path = str(Layout(store_path).staging / staging_key(model.weights.digest, model.weights.size) / "journal")
    return lambda: journaled_bytes(path, model.weights.size, model.weights.digest)


def wait_until(journaled: Callable[[], int], count: int) -> None:
    eventually(lambda: journaled() == count, f"{count} bytes to be on disk")


def test_two_processes_share_one_download(
    registry: FaultRegistry, pulling: Pulling, model: Model, journaled: Callable[[], int]
) -> None:
    name = registry.add(model, "library/model")
    stall = Stall(after=5 * MIB)
    registry.fail(blob(model.weights), stall, times=1)
    with PullProcess(pulling.models, name) as other:
        wait_until(journaled, 5 * MIB)
        following = pulling.start(name).until_completed(model.weights, 5 * MIB)
        stall.release()
        following.finish(model)
        check_pull(other.finish(), model=model)
    pulling.check_stored(name, model)
    assert registry.bytes_sent() == model.size


def test_whoever_follows_takes_over_when_the_holder_is_killed(
    registry: FaultRegistry, pulling: Pulling, model: Model, journaled: Callable[[], int]
) -> None:
    name = registry.add(model, "library/model")
    registry.fail(blob(model.weights), Stall(after=5 * MIB), times=1)
    with PullProcess(pulling.models, name) as other:
        wait_until(journaled, 5 * MIB)
        following = pulling.start(name).until_completed(model.weights, 5 * MIB)
        assert len(registry.blob_requests(model.weights)) == 1
        other.kill()
        following.finish(model)
    pulling.check_stored(name, model)
    assert registry.bytes_sent(model.weights) == model.weights.size


def test_whoever_follows_takes_over_when_the_holder_gives_up(
    registry: FaultRegistry, store_path: Path, pulling: Pulling, model: Model
) -> None:
    name = registry.add(model, "library/model")
    registry.fail(blob(model.weights), Stall(after=5 * MIB), times=1)
    with Pulling(store_path, connections_per_blob=1) as holder:
        held = holder.start(name).until_completed(model.weights, 5 * MIB)
        following = pulling.start(name).until_completed(model.weights, 5 * MIB)
        held.close()
        following.finish(model)
    assert registry.bytes_sent(model.weights) == model.weights.size


def test_after_kill_9_the_next_pull_goes_on_where_it_stood(
    registry: FaultRegistry, pulling: Pulling, model: Model, journaled: Callable[[], int]
) -> None:
    name = registry.add(model, "library/model")
    registry.fail(blob(model.weights), Stall(after=21 * MIB), times=None)
    registry.fail(blob(model.weights), Stall(after=5 * MIB), times=None, skip=1)
    with PullProcess(pulling.models, name) as killed:
        wait_until(journaled, 21 * MIB)
        killed.kill()
    registry.heal()
    registry.reset()
    assert pulling.pull(name, model).first(model.weights) == 21 * MIB
    assert registry.bytes_sent(model.weights) == model.weights.size - 21 * MIB


def test_after_kill_9_of_many_connections_no_more_than_a_block_each_is_fetched_again(
    registry: FaultRegistry, pulling: Pulling, model: Model, journaled: Callable[[], int]
) -> None:
    name = registry.add(model, "library/model")
    stall = Stall(after=4 * MIB + 300_000)
    registry.fail(blob(model.weights), stall, times=None)
    with PullProcess(pulling.models, name, TOWLINE_CONNECTIONS_PER_BLOB="8") as killed:
        eventually(lambda: journaled() >= 4 * MIB, "the other process to begin")
        killed.kill()
    registry.wait_idle()
    before = journaled()
    registry.heal()
    registry.reset()
    assert pulling.pull(name, model).first(model.weights) == before
    assert registry.bytes_sent(model.weights) == model.weights.size - before


def test_kill_9_again_and_again_ends_in_a_whole_model(
    registry: FaultRegistry, pulling: Pulling, model: Model, journaled: Callable[[], int]
) -> None:
    name = registry.add(model, "library/model")
    for count in (1, 2, 3):
        registry.fail(blob(model.weights), Stall(after=3 * MIB), times=1)
        with PullProcess(pulling.models, name) as killed:
            wait_until(journaled, count * 3 * MIB)
            killed.kill()
        registry.heal()
    pulling.pull(name, model)
    assert registry.bytes_sent(model.weights) == model.weights.size


def test_what_a_killed_process_left_in_the_store_is_cleared_by_the_next(
    registry: FaultRegistry, pulling: Pulling, model: Model, journaled: Callable[[], int]
) -> None:
    name = registry.add(model, "library/model")
    registry.fail(blob(model.weights), Stall(after=2 * MIB), times=1)
    with PullProcess(pulling.models, name) as killed:
        wait_until(journaled, 2 * MIB)
        killed.kill()
    assert list(pulling.layout.pins.iterdir())
    pulling.puller.store.prepare()
    assert not list(pulling.layout.pins.iterdir())
    assert not list(pulling.layout.locks.iterdir())
    assert journaled() == 2 * MIB


def test_ten_pulls_in_two_processes_fetch_each_byte_once(
    registry: FaultRegistry, pulling: Pulling, model: Model, store_path: Path
) -> None:
    name = registry.add(model, "library/model")
    with Pulling(store_path, connections_per_blob=1) as second, PullProcess(store_path, name) as third:
        followings = [each.start(name) for each in (pulling, second) for _ in range(5)]
        for following in followings:
            following.finish(model)
        check_pull(third.finish(), model=model)
    assert registry.bytes_sent() == model.size


class TestSignsOfLife:
    """A holder that waits for its disk is waited for, one that waits for its sources no longer than those."""

    @pytest.fixture
    def last_step(self, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
        """The disk takes long to keep the weights: set when it is waited for; to be set when it may be through."""
        waits, goes_on, real = threading.Event(), threading.Event(), StagedBlob.finish

        def finish(staged: StagedBlob, file: int) -> None:
            if os.fstat(file).st_size == SIZE:
                waits.set()
                assert goes_on.wait(30)
            real(staged, file)

        monkeypatch.setattr(StagedBlob, "finish", finish)
        return waits, goes_on

    def test_whoever_follows_one_that_waits_for_its_disk_does_not_give_up(
        self,
        registry: FaultRegistry,
        store_path: Path,
        model: Model,
        last_step: tuple[threading.Event, threading.Event],
    ) -> None:
        name = registry.add(model, "library/model")
        waits, goes_on = last_step
        with Pulling(store_path) as holder, Pulling(store_path, stall_timeout=1.0) as other:
            held = holder.start(name)
            assert waits.wait(30)
            following = other.start(name)
            stays(following, 4.0)
            goes_on.set()
            following.finish(model)
            held.finish(model)

    def test_a_pull_that_was_left_at_its_last_step_is_no_other_process_to_the_next(
        self,
        registry: FaultRegistry,
        store_path: Path,
        model: Model,
        last_step: tuple[threading.Event, threading.Event],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(patience, "LASTING", 1.0)
        name = registry.add(model, "library/model")
        waits, goes_on = last_step
        with Pulling(store_path, stall_timeout=1.0) as pulling:
            left = pulling.start(name)
            assert waits.wait(30)
            left.close()
            again = pulling.start(name)
            stays(again, 4.0)
            goes_on.set()
            again.finish(model)

    def test_one_that_keeps_trying_a_registry_that_is_dead_is_not_followed_for_longer_than_that(
        self, registry: FaultRegistry, store_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(patience, "LASTING", 1.0)
        name = registry.add(model, "library/model")
        stall = Stall()
        registry.fail(blob(model.weights), stall, times=None)
        with Pulling(store_path, keep_trying=True) as holder, Pulling(store_path, stall_timeout=1.0) as other:
            held = holder.start(name)
            assert stall.reached.wait(30)
            assert "another process holds the download" in str(other.fail(name))
            held.close()


def stays(following: Following, seconds: float) -> None:
    """Looks for so many seconds that the pull goes on."""
    for _ in range(10):
        assert not following.watcher.finished, following.watcher.error
        threading.Event().wait(seconds / 10)
