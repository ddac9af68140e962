"""A dry run: resolved, compared, the space checked, and nothing stored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DaemonFactory
from tests.support.events import Line, check_sentence
from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.models import Blob, Model, generate, tiny
from tests.support.mounts import small_disk
from tests.support.pulling import Pulling, eventually
from tests.support.registry import FaultRegistry
from towline.errors import NoSpace, NotFound, StoreError, TowlineError
from towline.model.manifest import TENSOR_LAYER
from towline.model.name import ModelName

MIB = 1 << 20


@pytest.fixture(scope="module")
def model() -> Model:
    """Two layers of 4 MiB, and small ones."""
    return generate(8 * MIB, layers=2, seed=61)


@pytest.fixture
def name(registry: FaultRegistry, model: Model) -> str:
    return registry.add(model, "library/model")


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder, with its inode and when it was last changed."""
    found = {str(path): os.lstat(path) for path in [folder, *folder.rglob("*")]}
    return {path: (there.st_ino, there.st_mtime_ns) for path, there in found.items()}


def tried(pulling: Pulling, name: str, *, interleave: bool = False) -> list[Line]:
    """What a dry run tells. Raises its error."""
    watcher = pulling.puller.dry_run(ModelName.parse(name))
    watcher.interleave = interleave
    return [event.wire() for event in watcher.events()]


def told(model: Model, **here: int) -> list[Line]:
    """What it has to tell of a model, of which so many bytes are here, by the hex of their digests."""
    layers: list[Line] = [
        {
            "status": f"pulling {each.digest.short}",
            "digest": str(each.digest),
            "total": each.size,
            "completed": here.get(each.digest.hex, 0),
        }
        for each in model.blobs
    ]
    return [{"status": "pulling manifest"}, *layers, {"status": "dry run"}]


def all_of(*blobs: Blob) -> dict[str, int]:
    return {each.digest.hex: each.size for each in blobs}


@pytest.mark.parametrize("interleave", [False, True])
def test_each_layer_is_told_once_and_no_blob_is_asked_for_and_no_store_is_made(
    registry: FaultRegistry, pulling: Pulling, model: Model, name: str, interleave: bool
) -> None:
    assert tried(pulling, name, interleave=interleave) == told(model)
    assert not registry.blob_requests()
    assert not pulling.models.exists()


def test_a_model_that_is_here_lacks_nothing(pulling: Pulling, model: Model, name: str) -> None:
    pulling.pull(name, model)
    before = everything_in(pulling.models)
    assert tried(pulling, name) == told(model, **all_of(*model.blobs))
    assert everything_in(pulling.models) == before


def test_a_newer_version_lacks_what_changed(registry: FaultRegistry, pulling: Pulling, model: Model, name: str) -> None:
    pulling.pull(name, model)
    newer = Model.of([generate(4 * MIB, seed=62).weights, *model.layers[1:]])
    registry.add(newer, "library/model")
    before = everything_in(pulling.models)
    assert tried(pulling, name) == told(newer, **all_of(*model.layers[1:], *{newer.config} & {model.config}))
    assert everything_in(pulling.models) == before
    assert pulling.puller.store.find(ModelName.parse(name)) is not None


def test_what_an_interrupted_pull_left_counts_and_stays(
    registry: FaultRegistry, pulling: Pulling, model: Model, name: str
) -> None:
    registry.fail(blob(model.layers[0]), Stall(after=MIB), times=None)
    following = pulling.start(name, interleave=True).until_completed(model.layers[0], MIB)
    for each in model.blobs[1:]:
        following.until_completed(each, each.size)
    following.close()
    registry.wait_idle()
    eventually(lambda: not list(pulling.layout.locks.iterdir()), "the locks to be given back")
    before = everything_in(pulling.models)
    assert tried(pulling, name) == told(model, **all_of(*model.blobs[1:]), **{model.layers[0].digest.hex: MIB})
    assert everything_in(pulling.models) == before


def test_a_blob_whose_bytes_have_changed_is_looked_at_and_would_be_fetched(
    pulling: Pulling, model: Model, name: str
) -> None:
    pulling.pull(name, model)
    path = pulling.layout.blob(model.weights.digest)
    with open(path, "r+b") as file:
        file.seek(MIB)
        file.write(b"wrong")
    before = everything_in(pulling.models)
    others = (each for each in model.blobs if each.digest != model.weights.digest)
    assert tried(pulling, name) == told(model, **all_of(*others))
    assert everything_in(pulling.models) == before


def test_a_model_of_tensors_is_told_as_one(registry: FaultRegistry, pulling: Pulling) -> None:
    model = Model.of([Blob.of(TENSOR_LAYER, b"%d" % number * 1000) for number in range(200)])
    name = registry.add(model, "library/tensors")
    whole = {"status": "pulling model", "digest": "sha256:model", "total": model.size, "completed": 0}
    assert tried(pulling, name) == [{"status": "pulling manifest"}, whole, {"status": "dry run"}]
    assert tried(pulling, name, interleave=True) == told(model)


def test_beside_a_pull_it_fetches_nothing_and_tells_what_that_has(
    registry: FaultRegistry, pulling: Pulling, model: Model, name: str
) -> None:
    stall = Stall(after=MIB)
    registry.fail(blob(model.layers[0]), stall, times=None)
    following = pulling.start(name).until_completed(model.layers[0], MIB)
    (layer,) = (line for line in tried(pulling, name) if line.get("digest") == str(model.layers[0].digest))
    assert layer["completed"] == MIB
    stall.release()
    following.finish(model)


def failure(pulling: Pulling, name: str) -> TowlineError:
    with pytest.raises(TowlineError) as failed:
        tried(pulling, name)
    check_sentence(str(failed.value))
    return failed.value


def test_what_does_not_fit_is_told(registry: FaultRegistry, store_path: Path, model: Model, name: str) -> None:
    with small_disk(store_path, 4 * MIB), Pulling(store_path / "models") as pulling:
        error = failure(pulling, name)
        assert isinstance(error, NoSpace)
        assert "8.4 MB are needed" in str(error)
        assert not pulling.models.exists()


def test_a_name_that_nobody_has_is_not_found(registry: FaultRegistry, pulling: Pulling) -> None:
    assert isinstance(failure(pulling, f"{registry.host}/library/nothing"), NotFound)


def test_where_there_can_be_no_store_that_is_told(registry: FaultRegistry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with Pulling(tmp_path / "file" / "models") as pulling:
        assert isinstance(failure(pulling, registry.add(tiny(), "library/tiny")), StoreError)


class TestOverTheAPI:
    def tried(self, daemon_factory: DaemonFactory, body: dict[str, Any]) -> Any:
        daemon = daemon_factory()
        before = everything_in(daemon.store)
        response = daemon.request("POST", "/api/pull", {"dry_run": True, **body})
        assert everything_in(daemon.store) == before
        return response

    def test_streamed(self, registry: FaultRegistry, daemon_factory: DaemonFactory, model: Model, name: str) -> None:
        response = self.tried(daemon_factory, {"model": name})
        assert (response.status, response.headers["content-type"]) == (200, "application/x-ndjson")
        assert response.lines == told(model)
        assert not registry.blob_requests()

    def test_at_once(self, registry: FaultRegistry, daemon_factory: DaemonFactory, model: Model, name: str) -> None:
        response = self.tried(daemon_factory, {"model": name, "stream": False})
        total = sum(each.size for each in model.blobs)
        assert (response.status, response.json) == (200, {"status": "dry run", "total": total, "completed": 0})
        assert not registry.blob_requests()

    @pytest.mark.parametrize("stream", [True, False])
    def test_a_failure_has_its_status(
        self, registry: FaultRegistry, daemon_factory: DaemonFactory, stream: bool
    ) -> None:
        response = self.tried(daemon_factory, {"model": f"{registry.host}/library/nothing", "stream": stream})
        assert response.status == 404

    @pytest.mark.parametrize("value", ["yes", 1])
    def test_what_may_mean_a_dry_run_is_never_a_pull(
        self, registry: FaultRegistry, daemon_factory: DaemonFactory, name: str, value: object
    ) -> None:
        response = self.tried(daemon_factory, {"model": name, "dry_run": value})
        assert response.status == 400
        assert "dry_run must be a boolean" in response.json["error"]
        assert not registry.exchanges()

    @pytest.mark.parametrize("value", [False, None])
    def test_whatever_is_not_true_is_no_dry_run(
        self, registry: FaultRegistry, daemon_factory: DaemonFactory, value: object
    ) -> None:
        small = tiny()
        daemon_factory().pull(registry.add(small, "library/tiny"), model=small, dry_run=value)

    def test_the_log_calls_it_what_it_is(
        self, registry: FaultRegistry, daemon_factory: DaemonFactory, name: str
    ) -> None:
        daemon = daemon_factory(environment={"TOWLINE_LOG": "json"})
        daemon.request("POST", "/api/pull", {"dry_run": True, "model": name})
        assert '"dry run begins"' in daemon.output
        assert '"dry run ended"' in daemon.output
        assert '"pull begins"' not in daemon.output
