"""A process that is killed at any call that changes the store leaves it whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.models import Blob, tiny
from tests.support.pulling import Pulling
from tests.support.registry import FaultRegistry
from towline.model.digest import Digest
from towline.model.manifest import LICENSE_LAYER
from towline.store.layout import Layout
from towline.store.store import Store

ROOT = Path(__file__).parents[2]
OLD = tiny()
NEW = OLD.with_layer(Blob.of(LICENSE_LAYER, "another license"))


def check_whole(layout: Layout, where: str) -> None:
    """Whatever the store shows is true, and nothing else lies where an Ollama looks."""
    (model,) = Store(layout.root).list()
    assert model.manifest.raw in (OLD.manifest, NEW.manifest), where
    for blob in model.manifest.blobs:
        assert Digest.of(Path(layout.blob(blob.digest)).read_bytes()) == blob.digest, f"{where}: {blob}"
    known = {blob.digest.file_name for blob in (*OLD.blobs, *NEW.blobs)}
    assert {path.name for path in layout.blobs.iterdir()} <= known, where
    assert [path.name for path in layout.manifests.rglob("*") if path.is_file()] == ["latest"], where


@pytest.mark.timeout(240)
def test_killed_at_any_call_the_store_is_whole_and_the_next_pull_succeeds(
    registry: FaultRegistry, tmp_path: Path
) -> None:
    name = registry.add(NEW, "library/tiny")
    old = f"{registry.host}/library/tiny@{OLD.digest}"
    registry.put_manifest("library/tiny", "old", OLD.manifest)
    for blob in OLD.blobs:
        registry.hold(blob)
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.crash", tmp_path, old, name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    ends = [line.split("\t") for line in done.stdout.splitlines()]
    assert ends[-1][0] == "done"
    assert {"link", "rename", "fsync", "unlink"} <= {call for call, _ in ends}
    for number, (call, path) in enumerate(ends):
        where = f"killed before call {number}, {call}"
        assert not call.startswith("failed"), where
        check_whole(Layout(Path(path)), where)
    for _, path in ends[::5]:
        with Pulling(Path(path)) as pulling:
            pulling.pull(name, NEW)
            pulling.puller.store.prepare()
            layout = pulling.layout
            left = [each for folder in (layout.staging, layout.pins, layout.locks) for each in folder.iterdir()]
            assert not left, path
