"""`GET /api/tags`, over stores laid out as Ollama lays them out."""

from __future__ import annotations

import hashlib
import io
from datetime import datetime
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.model.ggufs import gguf_bytes
from tests.server.support import FakePuller, Served, keep
from tests.support.models import Blob, Model, tiny
from towline.model.digest import Digest
from towline.model.gguf import read
from towline.model.manifest import LICENSE_LAYER, MODEL_LAYER, PROJECTOR_LAYER, TEMPLATE_LAYER
from towline.server.details import capabilities


def model_of(metadata: dict[str, Any], *more: Blob, **config: object) -> Model:
    return Model.of([Blob.of(MODEL_LAYER, gguf_bytes(metadata)), *more], **config)


def listed(served: Served) -> list[dict[str, Any]]:
    answer = served.get("/api/tags")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    models: list[dict[str, Any]] = answer.json["models"]
    return models


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
            "modified_at": "2023-11-14T22:13:20.500000Z",
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


def test_details_are_read_once_and_again_after_a_change(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    root = served.puller.store.root
    keep(root, "tiny", model_of({"general.architecture": "llama"}))
    first = listed(served)
    opened: list[Digest] = []

    def nowhere(digest: Digest) -> Path:
        opened.append(digest)
        return Path("/nowhere")

    monkeypatch.setattr(served.puller.store, "blob_path", nowhere)
    assert listed(served) == first
    assert not opened
    keep(root, "tiny", model_of({"general.architecture": "llama"}, model_family="other"))
    assert listed(served)[0]["details"]["family"] == ""
    assert opened


@pytest.mark.parametrize("broken", [b"", b"not what it was", b"[]", b"{" * 100_000, b'{"model_format": 1}', b"\xff"])
@pytest.mark.parametrize("which", ["config", "weights"])
def test_a_broken_blob_leaves_its_details_empty(served: Served, which: str, broken: bytes) -> None:
    root = served.puller.store.root
    model = tiny()
    keep(root, "tiny", model)
    blob = model.config if which == "config" else model.weights
    (root / "blobs" / blob.digest.file_name).write_bytes(broken)
    details = listed(served)[0]["details"]
    assert details["family"] == ("" if which == "config" else "llama")


def test_a_missing_blob_is_looked_for_again(served: Served) -> None:
    root = served.puller.store.root
    model = tiny()
    keep(root, "tiny", model)
    blob = root / "blobs" / model.config.digest.file_name
    content = blob.read_bytes()
    blob.unlink()
    assert listed(served)[0]["details"]["format"] == ""
    blob.write_bytes(content)
    assert listed(served)[0]["details"]["format"] == "gguf"


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


@pytest.mark.parametrize(
    ("metadata", "template", "family", "projector", "expected"),
    [
        ({}, "", "llama", False, ("completion",)),
        ({"llama.pooling_type": 1}, "", "llama", False, ("embedding",)),
        ({"other.pooling_type": 1}, "", "llama", False, ("completion",)),
        ({"llama.vision.block_count": 24}, "", "llama", False, ("completion", "vision")),
        ({}, "", "llama", True, ("completion", "vision")),
        ({}, "{{ if .Tools }}{{ .Tools }}{{ end }}", "llama", False, ("completion", "tools")),
        ({}, "{{- if $.Tools }}", "llama", False, ("completion", "tools")),
        ({}, "{{ .ToolCalls }} .Tools", "llama", False, ("completion",)),
        ({}, "{{ .Prompt }}{{ .Suffix }}", "llama", False, ("completion", "insert")),
        ({}, "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}", "llama", False, ("completion", "thinking")),
        ({}, "", "gptoss", False, ("completion", "thinking")),
    ],
)
def test_capabilities_follow_ollamas_signs(
    metadata: dict[str, Any], template: str, family: str, projector: bool, expected: tuple[str, ...]
) -> None:
    head = read(io.BytesIO(gguf_bytes({"general.architecture": "llama", **metadata})))
    assert capabilities(head, template, family, projector) == expected


def test_the_layers_that_tell_are_found_in_the_manifest(served: Served) -> None:
    template = Blob.of(TEMPLATE_LAYER, "{{ .Tools }}{{ .Prompt }}")
    projector = Blob.of(PROJECTOR_LAYER, gguf_bytes({"general.architecture": "clip"}))
    keep(served.puller.store.root, "tiny", model_of({"general.architecture": "llama"}, template, projector))
    assert listed(served)[0]["capabilities"] == ["completion", "vision", "tools"]


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
