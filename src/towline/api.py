"""The Python API: a pull in this process, without a daemon.

It shares downloads and the store with every other towline process on the machine, and with Ollama.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from towline.changes import Changes
from towline.errors import InvalidRequest, NotFound
from towline.model.events import Event
from towline.model.manifest import LICENSE_LAYER, PARAMS_LAYER, PROJECTOR_LAYER, TEMPLATE_LAYER
from towline.model.name import ModelName
from towline.puller import Puller
from towline.settings import Settings, parse_folder
from towline.store.store import Store, StoredModel
from towline.watching import Watcher


@dataclass(frozen=True, slots=True)
class Model:
    """A model in the store, whole and verified.

    The files stay where they are and must not be changed; they go when the model is deleted or a newer version
    replaces them.
    """

    name: str
    """As the store spells it, with its tag: `llama3.2:latest`."""
    path: Path
    """The weights, a GGUF file for most models: what llama.cpp and its kin open."""
    digest: str
    """Of the manifest, `sha256:<hex>`: two models with the same one are the same in every byte."""
    size: int
    """Bytes of all its files."""
    projector: Path | None = None
    """The second GGUF of a model that sees (`--mmproj` in llama.cpp)."""
    template: Path | None = None
    """The prompt template, in Ollama's template language."""
    license: Path | None = None
    params: Path | None = None
    """Default parameters, a JSON object."""


def pull(name: str, *, models: str | os.PathLike[str] | None = None) -> Model:
    """Gets a model, or brings it up to date, and returns it when all of it is on disk and verified.

    `name` is `[host[:port]/][namespace/]model[:tag]`. `models` is the store's folder; without it OLLAMA_MODELS, else
    `~/.ollama/models`. The other settings come from the environment, as for `towline pull`.

    An interrupted pull (Ctrl-C too) keeps what has arrived, and the next one goes on from there. May be called from
    several threads at once: pulls that share layers share their download.

    Raises InvalidName, NotFound, RegistryError, TransferError, StoreError or Starved, all of them TowlineError.
    NotFound also for a model that has no single file of weights, InvalidRequest for a setting that cannot be.

        >>> import towline
        >>> model = towline.pull("smollm2:135m")           # doctest: +SKIP
        >>> llama = llama_cpp.Llama(str(model.path))       # doctest: +SKIP
    """
    settings, parsed = _settings(models), ModelName.parse(name)
    with _puller(settings) as puller:
        watcher = puller.join(parsed)
        for _ in watcher.events():
            pass
        return _model(puller.store, parsed, watcher)


def stream(
    name: str, *, models: str | os.PathLike[str] | None = None, interleave: bool = False
) -> Generator[Event, None, None]:
    """Pulls a model and yields what happens: `Status` for each step, `Progress` for the bytes of each layer.

    One layer is told after the other, as by `POST /api/pull` and by Ollama's own package, so that code which draws one
    bar at a time, or keeps the last event only, is right with either; a model of thousands of tensors is told as one,
    with `sha256:model` for a digest. With `interleave` every layer is told at once and then as it moves: for who draws
    a bar for each, or adds them up.

    The pull starts with the first event asked for. The last event is `Status("success")`; a pull that fails raises
    what `pull` raises. Leaving the loop early ends the pull, with what has arrived kept. A slow reader gets fewer,
    newer events and holds nothing back.

        >>> for event in towline.stream("llama3.2"):       # doctest: +SKIP
        ...     if isinstance(event, towline.Progress):
        ...         print(event.digest.short, event.completed, "of", event.total)
        ...     else:
        ...         print(event.status)
    """
    return _stream(_settings(models), ModelName.parse(name), interleave)


def _stream(settings: Settings, name: ModelName, interleave: bool) -> Generator[Event, None, None]:
    with _puller(settings) as puller:
        watcher = puller.join(name)
        watcher.interleave = interleave
        yield from watcher.events()


def astream(
    name: str, *, models: str | os.PathLike[str] | None = None, interleave: bool = False
) -> AsyncGenerator[Event, None]:
    """`stream` for asyncio: the event loop is never blocked. Cancelling the task, or `aclose()`, ends the pull.

        >>> async for event in towline.astream("llama3.2"):    # doctest: +SKIP
        ...     print(event.status)

    Where the loop may be left early, `contextlib.aclosing` says when the pull is to end:

        >>> async with aclosing(towline.astream("llama3.2")) as events:   # doctest: +SKIP
        ...     async for event in events:
        ...         ...
    """
    return _astream(_settings(models), ModelName.parse(name), interleave)


async def _astream(settings: Settings, name: ModelName, interleave: bool) -> AsyncGenerator[Event, None]:
    puller = _pullers.take(settings)
    try:
        with puller.join(name) as watcher:
            watcher.interleave = interleave
            async with aclosing(Changes(watcher).batches()) as batches:
                async for events in batches:
                    for event in events:
                        yield event
            if watcher.error is not None:
                raise watcher.error
    finally:
        # Joins threads, for two seconds at the most: not on the event loop.
        await asyncio.shield(asyncio.to_thread(_pullers.give_back, settings))


def _settings(models: str | os.PathLike[str] | None) -> Settings:
    try:
        settings = Settings.from_environ(os.environ)
    except RuntimeError:
        raise InvalidRequest("no home folder to keep models in; name a folder with models= or OLLAMA_MODELS") from None
    folder = settings.models if models is None else parse_folder(os.fspath(models), "models")
    return replace(settings, models=folder.absolute())


class _Pullers:
    """One Puller for all calls in the process that have the same settings, closed when the last of them ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared: dict[Settings, tuple[Puller, int]] = {}

    def take(self, settings: Settings) -> Puller:
        """The Puller for these settings; each is given back exactly once."""
        with self._lock:
            puller, users = self._shared.get(settings) or (Puller(settings), 0)
            self._shared[settings] = (puller, users + 1)
            return puller

    def give_back(self, settings: Settings) -> None:
        """Closes the Puller where nobody else has it, which may take two seconds."""
        with self._lock:
            if settings not in self._shared:  # it was taken before a fork, and is the parent's
                return
            puller, users = self._shared.pop(settings)
            if users > 1:
                self._shared[settings] = (puller, users - 1)
                return
        puller.close()

    def forget(self) -> None:
        """In a child that was forked: they are the parent's, whose threads are not here."""
        self.__init__()  # type: ignore[misc]


_pullers = _Pullers()
os.register_at_fork(after_in_child=_pullers.forget)


@contextmanager
def _puller(settings: Settings) -> Iterator[Puller]:
    puller = _pullers.take(settings)
    try:
        yield puller
    finally:
        _pullers.give_back(settings)


def _model(store: Store, name: ModelName, watcher: Watcher) -> Model:
    stored = watcher.model or store.find(name)
    weights = store.weights_path(stored) if stored is not None else None
    if stored is None or weights is None:
        raise NotFound(f"{name} was pulled, but has no single file of weights; its files are named in its manifest")
    return Model(
        name=str(stored.name),
        path=weights,
        digest=str(stored.manifest.digest),
        size=stored.manifest.size,
        projector=_file(store, stored, PROJECTOR_LAYER),
        template=_file(store, stored, TEMPLATE_LAYER),
        license=_file(store, stored, LICENSE_LAYER),
        params=_file(store, stored, PARAMS_LAYER),
    )


def _file(store: Store, model: StoredModel, media_type: str) -> Path | None:
    layer = model.manifest.layer(media_type)
    return store.blob_path(layer.digest) if layer is not None else None
