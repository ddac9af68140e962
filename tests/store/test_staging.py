"""The place of a growing blob, where the store is removed from under it, and where manifests lie about its size."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.models import Model, generate
from tests.support.pulling import Pulling, eventually
from tests.support.registry import FaultRegistry
from towline.errors import StoreError
from towline.model.digest import Digest
from towline.store.staging import StagedBlob

MIB = 1 << 20


@pytest.mark.parametrize("size", [9000, 2 * MIB])
def test_what_another_download_began_in_the_same_place_is_not_taken_for_what_was_verified(
    pulling: Pulling, size: int
) -> None:
    data = bytes(range(250)) * (size // 250)
    digest = Digest.of(data)
    one, other = (StagedBlob(pulling.layout, digest, len(data)) for _ in range(2))
    assert one.acquire()
    one.make()
    with open(one.data_path, "w+b") as verified:
        verified.write(data)
        verified.flush()
        shutil.rmtree(pulling.layout.staging)
        shutil.rmtree(pulling.layout.locks)
        assert other.acquire()
        other.make()
        Path(other.data_path).write_bytes(b"\0" * len(data))
        with pytest.raises(StoreError, match="removed while it was in use"):
            one.finish(verified.fileno())
    assert not other.is_whole()
    assert os.listdir(os.path.dirname(other.data_path)) == [os.path.basename(other.data_path)]
    one.release()
    other.release()


class TestManifestsThatLie:
    """A manifest says another size of the same blob: what others have of it stays as it is."""

    @pytest.fixture
    def model(self) -> Model:
        return generate(9 * MIB, seed=41)

    @pytest.fixture
    def begun(self, registry: FaultRegistry, pulling: Pulling, model: Model) -> str:
        """A pull of the model that was given up with six blocks on disk."""
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Stall(after=6 * MIB), times=1)
        pulling.start(name).until_completed(model.weights, 6 * MIB).close()
        registry.wait_idle()
        eventually(lambda: not list(pulling.layout.locks.iterdir()), "the locks to be given back")
        registry.reset()
        return name

    @staticmethod
    def lie(registry: FaultRegistry, model: Model, size: int) -> str:
        """The name of a model whose manifest says so of the weights."""
        manifest = json.loads(model.manifest)
        for layer in manifest["layers"]:
            if layer["digest"] == str(model.weights.digest):
                layer["size"] = size
        registry.put_manifest("library/lie", "latest", json.dumps(manifest).encode())
        return f"{registry.host}/library/lie"

    @pytest.mark.parametrize("size", [1000, 8 * MIB, 9 * MIB - 1, 9 * MIB + 1, 30 * MIB])
    def test_a_pull_goes_on_where_it_was_whatever_a_lie_has_been_asked_for_meanwhile(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, begun: str, size: int
    ) -> None:
        pulling.fail(self.lie(registry, model, size))
        registry.reset()
        assert pulling.pull(begun, model).first(model.weights) == 6 * MIB
        assert registry.bytes_sent(model.weights) == 3 * MIB

    def test_a_pull_does_not_wait_for_one_that_was_lied_to(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        registry.fail(blob(model.weights), Stall(after=MIB), times=1)
        name = registry.add(model, "library/model")
        lied_to = pulling.start(self.lie(registry, model, 30 * MIB)).until_committed()
        registry.wait_sent(MIB, model.weights)
        pulling.pull(name, model)
        lied_to.close()

    def test_what_was_fetched_for_a_lie_is_not_published_for_the_truth(
        self, registry: FaultRegistry, store_path: Path, model: Model, begun: str
    ) -> None:
        with Pulling(store_path) as second:
            second.fail(self.lie(registry, model, 8 * MIB))
            second.pull(begun, model)
            assert not [folder for folder in second.layout.staging.iterdir() if (folder / "whole").exists()]
