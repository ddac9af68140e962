"""Stores of many models, laid out as an Ollama does it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.model.ggufs import gguf_bytes
from towline.model.manifest import CONFIG_TYPE, DOCKER_MANIFEST, MODEL_LAYER, TEMPLATE_LAYER

LIBRARY = Path("manifests/registry.ollama.ai/library")


def crowded(root: Path, count: int) -> list[str]:
    """A store of this many models, each of weights, a config and a template of its own; returns their names."""
    (root / "blobs").mkdir(parents=True)
    for number in range(count):
        weights = gguf_bytes({"general.architecture": "llama", "llama.context_length": 1 + number})
        manifest = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": _blob(root, CONFIG_TYPE, json.dumps({"model_format": "gguf", "number": number}).encode()),
            "layers": [
                _blob(root, MODEL_LAYER, weights),
                _blob(root, TEMPLATE_LAYER, f"{number}{{{{ .Prompt }}}}".encode()),
            ],
        }
        folder = root / LIBRARY / f"m{number}"
        folder.mkdir(parents=True)
        (folder / "latest").write_text(json.dumps(manifest))
    return [f"m{number}:latest" for number in range(count)]


def _blob(root: Path, media_type: str, data: bytes) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    (root / "blobs" / f"sha256-{digest}").write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
