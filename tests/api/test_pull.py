"""`towline.pull` and `towline.stream`: a pull in this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import towline
from tests.support import models
from tests.support.events import check_pull
from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.models import Blob, Model
from tests.support.registry import FaultRegistry
from towline.model.manifest import PARAMS_LAYER, PROJECTOR_LAYER

MB = 1_000_000


def checked(events: list[towline.Event], model: Model) -> None:
    """Looks that these are the events of a whole pull of this model."""
    check_pull([event.wire() for event in events], model=model)


def test_pull_returns_the_model_with_its_files(registry: FaultRegistry, store_path: Path) -> None:
    model = models.generate(4 * MB)
    name = registry.add(model, "library/tiny")
    found = towline.pull(name)
    assert found.name == name
    assert found.digest == str(model.digest)
    assert found.size == model.size
    assert found.path.parent == store_path / "blobs"
    assert found.path.read_bytes() == model.weights.data
    for path, layer in ((found.template, 0), (found.license, 1), (found.params, 3)):
        assert path is not None
        assert path.read_bytes() == models.texts()[layer].data
    assert found.projector is None


def test_pull_tells_of_a_projector(registry: FaultRegistry) -> None:
    eye = Blob.of(PROJECTOR_LAYER, "the second file of a model that sees")
    found = towline.pull(registry.add(models.tiny().with_layer(eye), "library/eye"))
    assert found.projector is not None
    assert found.projector.read_bytes() == eye.data


def test_a_model_is_a_value(registry: FaultRegistry) -> None:
    name = registry.add(models.tiny(), "library/tiny")
    first, second = towline.pull(name), towline.pull(name)
    assert first == second
    assert len({first, second}) == 1


def test_a_folder_given_goes_before_the_environment(
    registry: FaultRegistry, tmp_path: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = registry.add(models.tiny(), "library/tiny")
    assert towline.pull(name, models=tmp_path / "path").path.is_relative_to(tmp_path / "path")
    assert towline.pull(name, models=str(tmp_path / "text")).path.is_relative_to(tmp_path / "text")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert towline.pull(name, models="~/home").path.is_relative_to(tmp_path / "home")
    assert not store_path.exists()


def test_a_name_that_breaks_a_rule_raises_at_once() -> None:
    for call in (towline.pull, towline.stream, towline.astream):
        with pytest.raises(towline.InvalidName, match="namespace is empty"):
            call("a//b")


def test_a_bad_setting_raises_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWLINE_MIRRORS", "nonsense")
    with pytest.raises(towline.InvalidRequest, match="TOWLINE_MIRRORS"):
        towline.stream("llama3.2")


def test_a_model_that_is_nowhere_is_not_found(registry: FaultRegistry) -> None:
    with pytest.raises(towline.NotFound):
        towline.pull(f"{registry.host}/library/nothing")


def test_a_model_without_weights_says_so(registry: FaultRegistry) -> None:
    name = registry.add(Model.of([Blob.of(PARAMS_LAYER, "{}")]), "library/bare")
    with pytest.raises(towline.NotFound, match="no single file of weights"):
        towline.pull(name)


def test_a_store_that_cannot_be_written_is_a_store_error(registry: FaultRegistry) -> None:
    with pytest.raises(towline.StoreError):
        towline.pull(registry.add(models.tiny(), "library/tiny"), models="/proc/models")


def test_stream_yields_the_events_of_the_wire(registry: FaultRegistry) -> None:
    model = models.generate(4 * MB)
    checked(list(towline.stream(registry.add(model, "library/tiny"))), model)


def test_stream_starts_when_it_is_read(registry: FaultRegistry) -> None:
    events = towline.stream(registry.add(models.tiny(), "library/tiny"))
    assert not registry.exchanges()
    assert next(events) == towline.Status("pulling manifest")
    events.close()


def test_leaving_the_loop_ends_the_pull_and_keeps_what_came(registry: FaultRegistry) -> None:
    model = models.generate(24 * MB)
    name = registry.add(model, "library/tiny")
    registry.fail(blob(model.weights), Stall(after=2_500_001), times=None)
    for event in towline.stream(name):
        if isinstance(event, towline.Progress) and event.completed > 2 * MB:
            break
    registry.wait_idle()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("towline")]
    registry.heal()
    first = next(event for event in towline.stream(name) if isinstance(event, towline.Progress))
    assert first.completed > MB


def test_many_pulls_at_once_share_their_layers(registry: FaultRegistry) -> None:
    model = models.generate(4 * MB)
    name = registry.add(model, "library/tiny")
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: towline.pull(name), range(8)))
    assert len(found) == 1
    for each in model.layers[1:]:
        assert len(registry.blob_requests(each)) == 1


def test_no_thread_is_left(registry: FaultRegistry) -> None:
    before = threading.active_count()
    towline.pull(registry.add(models.tiny(), "library/tiny"))
    registry.stop()
    assert threading.active_count() <= before


def test_ctrl_c_is_a_keyboard_interrupt_and_the_next_pull_goes_on(registry: FaultRegistry, store_path: Path) -> None:
    model = models.generate(24 * MB)
    name = registry.add(model, "library/tiny")
    registry.fail(blob(model.weights), Stall(after=2_500_001), times=None)
    script = """
import sys, threading, towline
try:
    for event in towline.stream(sys.argv[1]):
        if isinstance(event, towline.Progress) and event.completed > 2_000_000:
            print("half way", flush=True)
except KeyboardInterrupt:
    print("interrupted", threading.active_count(), flush=True)
"""
    command = [sys.executable, "-c", script, name]
    environment = {**os.environ, "OLLAMA_MODELS": str(store_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert out.splitlines()[-1] == "interrupted 1"
    assert process.returncode == 0
    registry.heal()
    first = next(event for event in towline.stream(name) if isinstance(event, towline.Progress))
    assert first.completed > MB
