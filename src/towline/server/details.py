"""What a stored model is: what its config and the head of its weights tell.

Blobs never change, so neither does the answer for a manifest: it is read once and kept.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from towline.files.regular import open_regular
from towline.model import gguf
from towline.model.digest import Digest
from towline.model.manifest import MODEL_LAYER, PROJECTOR_LAYER, TEMPLATE_LAYER, Descriptor
from towline.store.store import Store, StoredModel

KEPT = 1024
"""Models whose details are remembered: more than people have, and a few hundred bytes each."""

MAX_TEXT_BYTES = 1 << 20
"""Of a config or a template. Real ones have some kilobytes; a larger one is not read."""


class _Config(msgspec.Struct):
    """Ollama's fields of an image config; `null` where another tool wrote it."""

    model_format: str | None = None
    model_family: str | None = None
    model_families: list[str] | None = None
    model_type: str | None = None
    file_type: str | None = None


@dataclass(frozen=True, slots=True)
class Details:
    """`details` as the list of models shows it (section 2 of the contract), and `capabilities`, None if unknown."""

    details: dict[str, object]
    capabilities: tuple[str, ...] | None


class _Unreadable(Exception):
    """A blob is missing or broken: the answer holds for now only."""


class Describer:
    """Describes models, and remembers. May be used from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[Digest, Details] = OrderedDict()
        self._lock = threading.Lock()

    def describe(self, model: StoredModel) -> Details:
        """The model's details; a blob that is missing or broken leaves empty what it would have told.

        Reads the disk the first time. Raises nothing for whatever lies in the store.
        """
        digest = model.manifest.digest
        with self._lock:
            if digest in self._known:
                self._known.move_to_end(digest)
                return self._known[digest]
        details, final = self._read(model)
        if final:
            with self._lock:
                self._known[digest] = details
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
        return details

    def _read(self, model: StoredModel) -> tuple[Details, bool]:
        final = True
        try:
            config = self._config(model)
        except _Unreadable:
            config, final = _Config(), False
        try:
            head = self._head(model)
            template = self._text(model.manifest.layer(TEMPLATE_LAYER))
        except _Unreadable:
            head, template, final = None, "", False
        details: dict[str, object] = {
            "parent_model": "",
            "format": config.model_format or "",
            "family": config.model_family or "",
            "families": config.model_families,
            "parameter_size": config.model_type or "",
            "quantization_level": config.file_type or "",
        }
        if head is None:
            return Details(details, None), final
        for key in ("context_length", "embedding_length"):
            if isinstance(value := head.own(key), int):
                details[key] = value
        projects = model.manifest.layer(PROJECTOR_LAYER) is not None
        return Details(details, capabilities(head, template, config.model_family or "", projects)), final

    def _config(self, model: StoredModel) -> _Config:
        if model.manifest.config is None:
            return _Config()
        try:
            return msgspec.json.decode(self._bytes(model.manifest.config), type=_Config)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
            raise _Unreadable from None

    def _head(self, model: StoredModel) -> gguf.Gguf | None:
        """The head of the weights; None where the model has none in this form."""
        layer = model.manifest.layer(MODEL_LAYER)
        if layer is None:
            return None
        try:
            with open(open_regular(self._store.blob_path(layer.digest)), "rb") as file:
                return gguf.read(file)
        except (OSError, ValueError):
            raise _Unreadable from None

    def _text(self, layer: Descriptor | None) -> str:
        return self._bytes(layer).decode("utf-8", "replace") if layer else ""

    def _bytes(self, layer: Descriptor) -> bytes:
        try:
            with open(open_regular(self._store.blob_path(layer.digest)), "rb") as file:
                return file.read(min(layer.size, MAX_TEXT_BYTES))
        except OSError:
            raise _Unreadable from None


_TOOLS = re.compile(r"\{\{[^}]*\.Tools\b")
_SUFFIX = re.compile(r"\{\{[^}]*\.Suffix\b")
_THINKING = re.compile(r"\{\{[^}]*\.Thinking\b|<think>")


def capabilities(head: gguf.Gguf, template: str, family: str, has_projector: bool) -> tuple[str, ...]:
    """What the model can do, by the signs that Ollama goes by (`Model.Capabilities` in its server/images.go)."""
    found = ["completion" if head.own("pooling_type") is None else "embedding"]
    if head.own("vision.block_count") is not None or has_projector:
        found.append("vision")
    if _TOOLS.search(template):
        found.append("tools")
    if _SUFFIX.search(template):
        found.append("insert")
    if _THINKING.search(template) or family in ("gptoss", "gpt-oss"):
        found.append("thinking")
    return tuple(found)
