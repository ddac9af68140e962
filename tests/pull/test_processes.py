"""Several processes over one store, some of which are killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pull.process import PullProcess
from tests.support.events import check_pull
from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.models import Model, generate
from tests.support.pulling import Pulling, eventually
from tests.support.registry import FaultRegistry
from towline.store.layout import Layout, staging_key
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
