"""Staging of an older towline, keyed by digest alone, and with a journal of records: nothing of it is lost."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.support.models import Model, generate
from tests.support.pulling import Pulling
from tests.support.registry import FaultRegistry
from tests.transfer.old_journal import written_records
from towline.store.layout import Layout
from towline.store.locks import FileLock

MIB = 1 << 20


@pytest.fixture
def model() -> Model:
    return generate(9 * MIB + 500, seed=31)


@pytest.fixture
def layout(store_path: Path) -> Layout:
    return Layout(store_path)


def old_staging(layout: Layout, model: Model, cuts: list[int]) -> Path:
    """What an older towline left: the bytes between these places, each a write of its own."""
    weights = model.weights
    folder = layout.staging / weights.digest.hex
    folder.mkdir(parents=True)
    writes = [(start, weights.data[start:stop]) for start, stop in itertools.pairwise(cuts)]
    (folder / "journal").write_bytes(written_records(weights.size, weights.digest, writes))
    with open(folder / "data", "wb") as data:
        for start, content in writes:
            data.seek(start)
            data.write(content)
        data.truncate(weights.size)
    return folder


def test_a_pull_goes_on_with_it(registry: FaultRegistry, store_path: Path, layout: Layout, model: Model) -> None:
    folder = old_staging(layout, model, [MIB // 2, MIB, 2 * MIB, 3 * MIB - 7, 3 * MIB + 7, 4 * MIB])
    name = registry.add(model, "library/model")
    with Pulling(store_path, connections_per_blob=1) as pulling:
        assert pulling.pull(name, model).first(model.weights) == 3.5 * MIB
    assert registry.bytes_sent(model.weights) == model.weights.size - 3.5 * MIB
    assert not folder.exists()


def test_what_is_damaged_in_it_is_fetched_again(
    registry: FaultRegistry, store_path: Path, layout: Layout, model: Model
) -> None:
    folder = old_staging(layout, model, [0, MIB, 2 * MIB, 2 * MIB + 100_000])
    with open(folder / "data", "r+b") as data:
        data.write(b"damage")
        data.seek(2 * MIB)
        data.write(b"damage")
    name = registry.add(model, "library/model")
    with Pulling(store_path, connections_per_blob=1) as pulling:
        pulling.pull(name, model)
    assert registry.bytes_sent(model.weights) == model.weights.size - MIB


def test_a_blob_in_it_that_is_whole_is_not_fetched_again(
    registry: FaultRegistry, store_path: Path, layout: Layout, model: Model
) -> None:
    folder = layout.staging / model.weights.digest.hex
    folder.mkdir(parents=True)
    (folder / "whole").write_bytes(model.weights.data)
    name = registry.add(model, "library/model")
    with Pulling(store_path, connections_per_blob=1) as pulling:
        pulling.pull(name, model)
    assert registry.bytes_sent(model.weights) == 0


def test_what_an_older_towline_works_in_is_left_to_it(
    registry: FaultRegistry, store_path: Path, layout: Layout, model: Model
) -> None:
    folder = old_staging(layout, model, [0, MIB])
    lock = FileLock(layout.lock(model.weights.digest.hex))
    assert lock.acquire()
    name = registry.add(model, "library/model")
    with Pulling(store_path, connections_per_blob=1) as pulling:
        pulling.pull(name, model)
        assert (folder / "data").exists()
        lock.release()


@pytest.mark.parametrize("journal", [b"", b"towline\x01", bytes(100)], ids=["empty", "torn", "zeros"])
def test_what_tells_nothing_harms_nothing(
    registry: FaultRegistry, store_path: Path, layout: Layout, model: Model, journal: bytes
) -> None:
    folder = old_staging(layout, model, [0, MIB])
    (folder / "journal").write_bytes(journal)
    name = registry.add(model, "library/model")
    with Pulling(store_path, connections_per_blob=1) as pulling:
        pulling.pull(name, model)
    assert registry.bytes_sent(model.weights) == model.weights.size
