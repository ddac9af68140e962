"""`GET /api/tags`, over stores laid out as Ollama lays them out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.model.ggufs import gguf_bytes
from tests.server.support import FakePuller, Served, keep, serving
from tests.support import recorded
from tests.support.models import Blob, Model, tiny, weights
from tests.support.opened import opened
from tests.support.stores import crowded
from towline.model.manifest import LICENSE_LAYER, MODEL_LAYER, PROJECTOR_LAYER, PROMPT_LAYER, TEMPLATE_LAYER
from towline.server.details import Describer
from towline.store.store import Store


def model_of(metadata: dict[str, Any], *more: Blob, **config: object) -> Model:
    return Model.of([Blob.of(MODEL_LAYER, gguf_bytes(metadata)), *more], **config)


def listed(served: Served) -> list[dict[str, Any]]:
    answer = served.get("/api/tags")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    models: list[dict[str, Any]] = answer.json["models"]
    return models


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """This process can open nothing meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_empty_store_is_an_empty_list(served: Served) -> None:
    assert served.get("/api/tags").json == {"models": []}


def test_a_model_is_described_by_its_manifest_config_and_weights(served: Served) -> None:
    model = model_of({
        "general.architecture": "llama", "llama.context_length": 8192, "llama.embedding_length": 576,
    })  # fmt: skip
    keep(served.puller.store.root, "smollm2:135m", model, modified=1_700_000_000.5)
    assert listed(served) == [
        {
            "name": "smollm2:135m",
            "model": "smollm2:135m",
            "modified_at": "2023-11-14T22:13:20.5Z",
            "size": model.size,
            "digest": hashlib.sha256(model.manifest).hexdigest(),
            "details": {
                "parent_model": "",
                "format": "gguf",
                "family": "llama",
                "families": ["llama"],
                "parameter_size": "135M",
                "quantization_level": "F32",
                "context_length": 8192,
                "embedding_length": 576,
            },
            "capabilities": ["completion"],
        }
    ]


def test_the_newest_model_comes_first_under_its_shortest_name(served: Served) -> None:
    root = served.puller.store.root
    keep(root, "old", tiny(1), modified=1000)
    keep(root, "new/model:7b", tiny(2), modified=3000)
    keep(root, "registry.example:5000/a/between", tiny(3), modified=2000)
    names = ["new/model:7b", "registry.example:5000/a/between:latest", "old:latest"]
    assert [model["name"] for model in listed(served)] == names
    assert all(datetime.fromisoformat(model["modified_at"]).tzinfo for model in listed(served))


def test_the_list_over_the_store_of_a_recorded_ollama_is_the_same_to_the_letter(tmp_path: Path) -> None:
    with serving(FakePuller(recorded.store(tmp_path))) as served:
        answer = served.get("/api/tags")
        # As text: the order of fields, and what is left out, count as well.
        assert json.dumps(answer.json, indent=1) == json.dumps(recorded.answer("list", "/api/tags"), indent=1)
        assert served.get("/api/tags").body == answer.body


def test_a_second_list_of_many_models_opens_no_file(tmp_path: Path) -> None:
    root = tmp_path / "models"
    everybody = crowded(root, 500)
    with serving(FakePuller(root)) as served:
        first = served.get("/api/tags")
        assert {model["name"] for model in first.json["models"]} == set(everybody)
        with opened(root) as files:
            assert served.get("/api/tags").body == first.body
        assert not [path for path in files if os.path.isfile(path)]


def test_a_thousand_models_are_described_from_what_is_known(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    crowded(store.root, 1000)
    describer = Describer(store)
    first = list(describer.describe(store.list()))
    with opened(store.root) as files:
        started = time.perf_counter()
        assert list(describer.describe(store.list())) == first
        assert time.perf_counter() - started < 5
    assert len(first) == 1000
    assert not [path for path in files if os.path.isfile(path)]


def test_others_are_answered_while_many_models_are_read(tmp_path: Path) -> None:
    root = tmp_path / "models"
    crowded(root, 500)
    with serving(FakePuller(root)) as served:
        listing = threading.Thread(target=served.get, args=("/api/tags",))
        answered = 0
        listing.start()
        while listing.is_alive():
            answered += served.get("/").status == 200
        listing.join()
    assert answered > 3


def test_details_are_read_once_and_again_after_a_change(served: Served) -> None:
    root = served.puller.store.root
    model = model_of({"general.architecture": "llama"}, Blob.of(TEMPLATE_LAYER, "{{ .Prompt }}"))
    keep(root, "tiny", model, modified=1)
    first = listed(served)
    with opened(root) as files:
        assert listed(served) == first
    assert not [path for path in files if os.path.isfile(path)]
    keep(root, "tiny", model_of({"general.architecture": "llama"}, model_family="other"), modified=2)
    assert listed(served)[0]["details"]["family"] == "other"


@pytest.mark.parametrize("which", ["config", "template", "weights"])
def test_a_blob_that_changes_or_comes_back_is_read_again(served: Served, which: str) -> None:
    root = served.puller.store.root
    model = model_of(
        {"general.architecture": "llama", "llama.context_length": 7}, Blob.of(TEMPLATE_LAYER, "{{ .Tools }}")
    )
    keep(root, "tiny", model)
    first = listed(served)
    blob = {"config": model.config, "weights": model.weights, "template": model.layers[-1]}[which]
    path = root / "blobs" / blob.digest.file_name
    path.write_bytes(b"{{ not what it was")
    changed = listed(served)
    assert changed != first
    path.unlink()
    assert listed(served) == changed
    path.write_bytes(blob.data)
    assert listed(served) == first


@pytest.mark.parametrize(
    "broken", [b"", b"not what it was", b"[]", b"{" * 100_000, b'{"model_format": 1}', b"\xff", b'{"capabilities": {}}']
)
def test_a_model_whose_config_cannot_be_read_is_hidden(served: Served, broken: bytes) -> None:
    model = tiny()
    keep(served.puller.store.root, "tiny", model)
    (served.puller.store.root / "blobs" / model.config.digest.file_name).write_bytes(broken)
    assert not listed(served)


@pytest.mark.parametrize("broken", [b"", b"GGUF", b"not what it was", b"GGUF" + bytes(100)])
def test_of_weights_that_cannot_be_read_nothing_is_told(served: Served, broken: bytes) -> None:
    model = Model.of([weights(1 << 14)])
    keep(served.puller.store.root, "tiny", model)
    (served.puller.store.root / "blobs" / model.weights.digest.file_name).write_bytes(broken)
    (told,) = listed(served)
    assert "capabilities" not in told
    assert told["details"]["family"] == "llama"
    assert "context_length" not in told["details"]


@pytest.mark.parametrize("which", ["config", "template", "weights"])
def test_what_is_no_file_in_a_blobs_place_blocks_nothing(served: Served, which: str) -> None:
    root = served.puller.store.root
    model = model_of({"general.architecture": "llama"}, Blob.of(TEMPLATE_LAYER, "{{ .Tools }}"))
    keep(root, "tiny", model)
    blob = {"config": model.config, "weights": model.weights, "template": model.layers[-1]}[which]
    path = root / "blobs" / blob.digest.file_name
    for make in (os.mkfifo, os.mkdir):
        path.unlink()
        make(path)
        assert [model["name"] for model in listed(served)] == (["tiny:latest"] if which == "weights" else [])
    path.rmdir()
    path.write_bytes(blob.data)
    assert listed(served)[0]["capabilities"] == ["completion", "tools"]


def test_a_list_for_want_of_files_is_an_error_and_whole_the_next_time(served: Served) -> None:
    keep(served.puller.store.root, "tiny", model_of({"general.architecture": "llama", "llama.context_length": 7}))
    store = served.puller.store
    with no_more_files(), pytest.raises(OSError, match="files"):
        store.list()
    models = store.list()
    describer = Describer(store)
    with no_more_files(), pytest.raises(OSError, match="files"):
        list(describer.describe(models))
    ((_, told),) = describer.describe(models)
    assert told.details.context_length == 7


def test_a_manifest_that_is_none_does_not_break_the_list(served: Served) -> None:
    root = served.puller.store.root
    keep(root, "tiny", tiny())
    for name, content in (("html", b"<html>"), ("deep", b"[" * 100_000), ("empty", b"")):
        path = root / "manifests/registry.ollama.ai/library" / name / "latest"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    assert [model["name"] for model in listed(served)] == ["tiny:latest"]


def test_a_model_without_weights_claims_no_capabilities(served: Served) -> None:
    keep(served.puller.store.root, "text", Model.of([Blob.of(LICENSE_LAYER, "MIT")]))
    assert "capabilities" not in listed(served)[0]


LLAMA = {"general.architecture": "llama"}


@pytest.mark.parametrize(
    ("metadata", "config", "expected"),
    [
        ({}, {}, ["completion"]),
        ({"llama.pooling_type": 1}, {}, ["embedding"]),
        ({"other.pooling_type": 1}, {}, ["completion"]),
        ({"llama.vision.block_count": 24}, {}, ["vision", "completion"]),
        ({"llama.audio.block_count": 2, "llama.vision.block_count": 24}, {}, ["audio", "vision", "completion"]),
        ({"tokenizer.ggml.model": "x", "llama.pooling_type": 1}, {}, ["completion"]),
        ({"llama.context_length": "long"}, {}, None),
        ({"llama.context_length": True}, {}, None),
        ({"general.file_type": 1.5}, {}, None),
        ({}, {"capabilities": ["vision", "odd", "", "vision"]}, ["completion", "vision", "odd"]),
        ({}, {"model_family": "gptoss"}, ["completion", "thinking"]),
        ({}, {"model_family": "gpt-oss"}, ["completion", "thinking"]),
        ({}, {"parser": "qwen3-coder"}, ["completion", "tools"]),
        ({}, {"parser": "olmo3-think"}, ["completion", "thinking"]),
        ({}, {"parser": "harmony"}, ["completion", "tools", "thinking"]),
        ({}, {"parser": "passthrough", "renderer": "qwen3-coder"}, ["completion"]),
        ({}, {"parser": "no-such"}, ["completion"]),
        (
            {},
            {"model_format": "safetensors", "renderer": "gemma4", "capabilities": ["vision", "audio", "tools"]},
            ["completion", "tools"],
        ),
        ({}, {"renderer": "gemma4", "capabilities": ["vision"]}, ["completion", "vision"]),
    ],
)
def test_capabilities_follow_the_weights_and_the_config(
    served: Served, metadata: dict[str, Any], config: dict[str, Any], expected: list[str] | None
) -> None:
    keep(served.puller.store.root, "tiny", model_of({**LLAMA, **metadata}, **config))
    assert listed(served)[0].get("capabilities") == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ if .Tools }}{{ .Tools }}{{ end }}", ["completion", "tools"]),
        ("{{- if $.Tools }}{{ end }}", ["completion", "tools"]),
        ("{{/* .Tools */}}{{ .Prompt }}", ["completion"]),
        ('{{ ".Tools" }}', ["completion"]),
        ("{{ .ToolCalls }} .Tools", ["completion"]),
        ("{{ .Prompt }}{{ .Suffix }}", ["completion", "insert"]),
        ("<think>{{ .Prompt }}</think>", ["completion"]),
        ("{{ range .Messages }}<think>{{ .Thinking }}</think>{{ end }}", ["completion", "thinking"]),
    ],
)
@pytest.mark.parametrize("media_type", [TEMPLATE_LAYER, PROMPT_LAYER])
def test_capabilities_follow_the_template(served: Served, template: str, expected: list[str], media_type: str) -> None:
    keep(served.puller.store.root, "tiny", model_of(LLAMA, Blob.of(media_type, template)))
    assert listed(served)[0]["capabilities"] == expected


@pytest.mark.parametrize("template", ["{{ .Prompt", "{{ nosuch .Prompt }}", '{{ template "x" }}', "{{ end }}"])
def test_a_model_with_a_broken_template_is_hidden(served: Served, template: str) -> None:
    keep(served.puller.store.root, "tiny", model_of(LLAMA, Blob.of(TEMPLATE_LAYER, template)))
    assert not listed(served)


@pytest.mark.parametrize(
    ("config", "expected"), [("", "Q6_K"), ("unknown", "Q6_K"), (None, "Q6_K"), ("F16", "F16"), ("odd", "odd")]
)
def test_the_weights_tell_how_they_are_quantized_where_the_config_does_not(
    served: Served, config: str | None, expected: str
) -> None:
    keep(served.puller.store.root, "tiny", model_of({**LLAMA, "general.file_type": 18}, file_type=config))
    assert listed(served)[0]["details"]["quantization_level"] == expected


def test_a_model_that_runs_elsewhere_says_where(served: Served) -> None:
    there = {"remote_model": "big:1t", "remote_host": "https://models.example:443"}
    told = {"context_length": 131072, "embedding_length": 2880, "capabilities": ["completion"]}
    model = Model.of([], model_format="", **there, **told).with_manifest(layers=None)
    keep(served.puller.store.root, "big:cloud", model)
    (listing,) = listed(served)
    assert {key: listing[key] for key in there} == there
    assert listing["size"] == model.config.size
    assert listing["capabilities"] == ["completion"]
    assert listing["details"]["context_length"] == 131072


def test_a_model_says_what_it_was_made_from(served: Served) -> None:
    model = model_of(LLAMA)
    layers = [{**layer.descriptor, "from": "plain:latest"} for layer in model.layers]
    keep(served.puller.store.root, "made", model.with_manifest(layers=layers))
    assert listed(served)[0]["details"]["parent_model"] == "plain:latest"


def test_the_layers_that_tell_are_found_in_the_manifest(served: Served) -> None:
    template = Blob.of(TEMPLATE_LAYER, "{{ .Tools }}{{ .Prompt }}")
    projector = Blob.of(PROJECTOR_LAYER, gguf_bytes({"general.architecture": "clip"}))
    keep(served.puller.store.root, "tiny", model_of({"general.architecture": "llama"}, template, projector))
    assert listed(served)[0]["capabilities"] == ["completion", "tools", "vision"]


def test_the_python_client_of_ollama_reads_the_list(served: Served) -> None:
    keep(served.puller.store.root, "tiny", tiny(1))
    keep(served.puller.store.root, "text", Model.of([Blob.of(LICENSE_LAYER, "MIT")], model_families=None))
    client = ollama.Client(host=f"http://127.0.0.1:{served.port}")
    models = {model.model: model for model in client.list().models}
    assert set(models) == {"tiny:latest", "text:latest"}
    details = models["tiny:latest"].details
    assert details is not None
    assert (details.format, details.families, details.parameter_size) == ("gguf", ["llama"], "135M")
    client._client.close()


def test_a_puller_is_not_asked(puller: FakePuller, served: Served) -> None:
    listed(served)
    assert not puller.joined
