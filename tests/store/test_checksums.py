"""The checksums of the store's blobs: there for whoever repairs one, and never needed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import xxhash

from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.models import Blob, Model, generate, tiny
from tests.support.pulling import Pulling, eventually
from tests.support.registry import FaultRegistry
from towline.model.checksums import Checksums
from towline.model.digest import Digest
from towline.store.checksums import checksums
from towline.store.staging import staging_of

MIB = 1 << 20


def check_kept(pulling: Pulling, blob: Blob) -> None:
    """Asserts that those of the blob are there, and are right."""
    found = checksums(pulling.layout, blob.digest, blob.size)
    assert found is not None
    blocks = [blob.data[at : at + MIB] for at in range(0, blob.size, MIB)]
    assert list(found.sums) == [xxhash.xxh3_64_intdigest(block) for block in blocks]


def files(pulling: Pulling) -> list[str]:
    """Those of which checksums are kept, by the names of their files."""
    folder = pulling.layout.checksums
    return [f"sha256-{name}" for name in os.listdir(folder)] if folder.exists() else []


class TestKeeping:
    def test_a_blob_that_was_pulled_has_them(self, registry: FaultRegistry, pulling: Pulling) -> None:
        model = generate(5 * MIB + 1000)
        pulling.pull(registry.add(model, "library/model"), model)
        check_kept(pulling, model.weights)
        assert files(pulling) == [model.weights.digest.file_name]

    def test_blobs_of_a_block_need_none(self, registry: FaultRegistry, pulling: Pulling) -> None:
        pulling.pull(registry.add(tiny(), "library/tiny"), tiny())
        assert files(pulling) == []

    def test_nothing_is_left_of_a_download_where_they_cannot_be_kept(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        pulling.puller.store.prepare()
        pulling.layout.checksums.touch()
        pulling.pull(registry.add(generate(2 * MIB), "library/model"), generate(2 * MIB))
        assert os.listdir(pulling.layout.staging) == []

    def test_one_that_came_in_two_pulls_has_them(self, registry: FaultRegistry, store_path: Path) -> None:
        model = generate(12 * MIB + 5, seed=4)
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Stall(after=5 * MIB + 77_777), times=1)
        with Pulling(store_path) as first:
            first.start(name).until_completed(model.weights, 5 * MIB).close()
        with Pulling(store_path) as second:
            second.pull(name, model)
            check_kept(second, model.weights)

    def test_one_that_was_whole_but_not_published_has_them(self, registry: FaultRegistry, pulling: Pulling) -> None:
        model = generate(5 * MIB)
        name = registry.add(model, "library/model")
        registry.fail(blob(model.config), Stall(), times=1)
        following = pulling.start(name)
        eventually((pulling.staged(model.weights) / "whole").exists, "the weights to be whole")
        following.close()
        pulling.pull(name, model)
        check_kept(pulling, model.weights)

    def test_one_that_a_sweep_finds_published_has_them(self, registry: FaultRegistry, store_path: Path) -> None:
        """Its process was killed between the two."""
        model = generate(5 * MIB)
        name = registry.add(model, "library/model")
        with Pulling(store_path) as pulling:
            registry.fail(blob(model.config), Stall(), times=1)
            following = pulling.start(name)
            eventually((pulling.staged(model.weights) / "whole").exists, "the weights to be whole")
            following.close()
            layout = pulling.layout
            assert staging_of(layout, model.weights.digest, model.weights.size).place(layout.blob(model.weights.digest))
        with Pulling(store_path) as pulling:
            pulling.puller.store.prepare()
            assert not pulling.staged(model.weights).exists()
            check_kept(pulling, model.weights)


class TestLosing:
    def test_they_go_with_their_blob(self, registry: FaultRegistry, store_path: Path) -> None:
        models: list[Model] = [generate(3 * MIB, seed=seed) for seed in (1, 2)]
        with Pulling(store_path) as pulling:
            for number, model in enumerate(models):
                pulling.pull(registry.add(model, f"library/model-{number}"), model)
            os.unlink(pulling.layout.blob(models[0].weights.digest))
        with Pulling(store_path) as pulling:
            pulling.puller.store.prepare()
            assert files(pulling) == [models[1].weights.digest.file_name]

    def test_a_store_without_them_is_as_good(self, registry: FaultRegistry, pulling: Pulling) -> None:
        model = generate(3 * MIB)
        name = registry.add(model, "library/model")
        pulling.pull(name, model)
        shutil.rmtree(pulling.layout.checksums)
        registry.reset()
        pulling.pull(name, model)
        assert registry.bytes_sent() == 0
        assert checksums(pulling.layout, model.weights.digest, model.weights.size) is None

    def test_damaged_ones_are_none(self, registry: FaultRegistry, pulling: Pulling) -> None:
        model = generate(3 * MIB)
        pulling.pull(registry.add(model, "library/model"), model)
        path = pulling.layout.checksums / model.weights.digest.hex
        raw = bytearray(path.read_bytes())
        raw[70] ^= 1
        path.write_bytes(raw)
        assert checksums(pulling.layout, model.weights.digest, model.weights.size) is None

    def test_those_of_another_blob_are_none(self, registry: FaultRegistry, pulling: Pulling) -> None:
        model = generate(3 * MIB)
        pulling.pull(registry.add(model, "library/model"), model)
        raw = (pulling.layout.checksums / model.weights.digest.hex).read_bytes()
        assert Checksums.decode(raw, Digest.of(b"other"), model.weights.size) is None
        assert Checksums.decode(raw, model.weights.digest, model.weights.size - 1) is None
