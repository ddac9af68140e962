"""A model with made-up weights: the same demonstration without a download."""

from __future__ import annotations

from typing import BinaryIO

from towline.demo.generated import write_gguf
from towline.demo.seed import Recipe

NAME = "towline-demo:generated"
BYTES = 8_000_000


def recipe() -> Recipe:
    """A llama of 8 MB that knows nothing."""

    def weights(target: BinaryIO) -> None:
        write_gguf(target, size=BYTES, name="towline generated")

    config = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": "2M",
        "file_type": "F32",
        "architecture": "amd64",
        "os": "linux",
    }
    return Recipe(
        NAME,
        weights,
        template="{{ .Prompt }}",
        license="These weights are noise; do with them what you like.\n",
        params='{"stop":["</s>"]}',
        config=config,
    )
