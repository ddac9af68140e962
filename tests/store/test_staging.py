"""The place of a growing blob, where the store is removed from under it, and where manifests lie about its size."""

from __future__ import annotations

import errno
import fcntl
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
from towline.store.staged_small import StagedSmall
from towline.store.staging import StagedBlob
from towline.store.verified import stamp

MIB = 1 << 20


def small(pulling: Pulling, data: bytes) -> StagedSmall:
    return StagedSmall(pulling.layout, Digest.of(data), len(data), begun=True, wrong=None)


class TestAStoreThatIsRemoved:
    """What another download began in the same place is not taken for what was verified."""

    LARGE, SMALL = bytes(range(250)) * 8000, bytes(range(250)) * 36

    def test_of_a_large_blob(self, pulling: Pulling) -> None:
        data = self.LARGE
        one, other = (StagedBlob(pulling.layout, Digest.of(data), len(data), begun=True, wrong=None) for _ in range(2))
        assert one.acquire()
        with open(one.data_path, "w+b") as verified:
            verified.write(data)
            verified.flush()
            shutil.rmtree(pulling.layout.staging)
            shutil.rmtree(pulling.layout.locks)
            assert other.acquire()
            Path(other.data_path).write_bytes(b"\0" * len(data))
            with pytest.raises(StoreError, match="removed while it was in use"):
                one.finish(verified.fileno())
        assert not other.is_whole()
        assert os.listdir(os.path.dirname(other.data_path)) == [os.path.basename(other.data_path)]
        one.release()
        other.release()

    def test_of_a_small_one(self, pulling: Pulling) -> None:
        data = self.SMALL
        one, other = small(pulling, data), small(pulling, data)
        assert one.acquire()
        one.write(memoryview(data))
        shutil.rmtree(pulling.layout.staging)
        assert other.acquire()
        other.write(memoryview(bytes(9000)))
        with pytest.raises(StoreError, match="removed while it was in use"):
            one.keep()
        assert not other.is_whole()
        one.release()
        assert os.listdir(pulling.layout.staging) == [os.path.basename(other.data_path)]
        other.release()

    def test_a_small_one_that_nobody_else_began_is_begun_anew(self, pulling: Pulling) -> None:
        data = self.SMALL
        one, other = small(pulling, data), small(pulling, data)
        assert one.acquire()
        shutil.rmtree(pulling.layout.staging)
        one.write(memoryview(data))
        assert not other.acquire()
        one.keep()
        one.release()
        assert other.is_whole()


class TestSmallBlobs:
    """One file, which is its own lock."""

    DATA = b"You are a helpful assistant."

    @pytest.fixture
    def stagings(self, pulling: Pulling) -> tuple[StagedSmall, StagedSmall]:
        return small(pulling, self.DATA), small(pulling, self.DATA)

    def test_what_is_left_of_one_is_never_taken_for_a_claim(self, stagings: tuple[StagedSmall, StagedSmall]) -> None:
        """Five words, as many as a claim has."""
        one, other = stagings
        assert one.acquire()
        one.write(memoryview(self.DATA))
        assert not other.acquire()
        one.release()  # written and not kept, as by a process that died
        assert other.acquire()
        assert other.read() == self.DATA
        other.release()

    def test_nothing_is_left_of_one_that_was_not_written(
        self, pulling: Pulling, stagings: tuple[StagedSmall, StagedSmall]
    ) -> None:
        assert stagings[0].acquire()
        stagings[0].release()
        assert not os.listdir(pulling.layout.staging)

    def test_it_is_known_by_what_it_was_when_its_lock_was_given_back(
        self, stagings: tuple[StagedSmall, StagedSmall]
    ) -> None:
        one, _ = stagings
        assert one.acquire()
        one.write(memoryview(self.DATA))
        one.keep()
        one.sign()
        one.release()
        assert one.stamp == stamp(os.stat(one.whole_path))

    def test_a_name_that_a_power_cut_left_beside_that_in_the_store_is_in_nobodys_way(
        self, pulling: Pulling, stagings: tuple[StagedSmall, StagedSmall]
    ) -> None:
        one, _ = stagings
        assert one.acquire()
        one.write(memoryview(self.DATA))
        one.release()
        stored = Path(pulling.layout.blob(Digest.of(self.DATA)))
        stored.parent.mkdir(exist_ok=True)
        os.link(one.data_path, stored)
        assert one.acquire()
        assert one.is_whole()
        one.release()
        assert stored.read_bytes() == self.DATA

    def test_where_the_file_system_has_no_locks_a_claim_stands_apart(
        self, pulling: Pulling, stagings: tuple[StagedSmall, StagedSmall], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lacks(*_: object) -> None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(fcntl, "flock", lacks)
        one, other = stagings
        assert one.acquire()
        one.write(memoryview(self.DATA))
        assert not other.acquire()
        one.keep()
        one.release()
        assert other.is_whole()
        assert os.listdir(pulling.layout.staging) == [os.path.basename(one.whole_path)]
        assert not os.listdir(pulling.layout.locks)


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
