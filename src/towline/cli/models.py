"""`towline list`, `towline path`: what the store holds, or what the server has that is meant.

They read the store directly; no daemon is needed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from towline.cli import options, units
from towline.cli.text import complain, one_line

if TYPE_CHECKING:
    from towline.cli.daemon import Listed
    from towline.model.name import ModelName
    from towline.store.store import Store

_LIST_EXAMPLES = """\
examples:
  towline list
  towline list llama                  only names that begin so
  towline list --host models.example  those of a server
  towline list --json                 as GET /api/tags, without details
"""

_PATH_EXAMPLES = """\
examples:
  towline path llama3.2
  llama-server -m "$(towline path llama3.2)"
"""


def add(commands: Any) -> None:
    """Adds the group's commands."""
    list_ = commands.add_parser(
        "list",
        aliases=["ls"],
        description="Shows the models in the store, or those of a server that is named,\nnewest first.",
        epilog=_LIST_EXAMPLES,
        formatter_class=options.Help,
        allow_abbrev=False,
    )
    list_.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="how the names begin")
    list_.add_argument("--json", action="store_true", help="print JSON")
    options.add_models(list_)
    options.add_server(list_, "has the models")
    list_.set_defaults(run=_list)

    path = commands.add_parser(
        "path",
        description="Prints the file of a model's weights, for llama.cpp, vLLM and friends.",
        epilog=_PATH_EXAMPLES,
        formatter_class=options.Help,
        allow_abbrev=False,
    )
    path.add_argument("name", metavar="NAME", help="the model, such as llama3.2 or mistral:7b-instruct")
    options.add_models(path)
    options.add_server(path, "has the model")
    path.set_defaults(run=_path)


def _list(arguments: argparse.Namespace) -> int:
    from towline.cli import target

    settings = options.settings(arguments)
    daemon = target.named(arguments)
    if daemon is not None:
        target.tell(daemon, "listed", target.store_without_effect(daemon, arguments, settings))
        found, remarks = daemon.models(), []
    else:
        remarks = _no_store(settings.models, must_be=arguments.models is not None)
        found = _stored(settings.models)
    prefix = arguments.prefix.lower()
    models = [model for model in found if model.name.lower().startswith(prefix)]
    width = shutil.get_terminal_size((_UNBOUNDED, 0)).columns
    print(_json(models) if arguments.json else _table(models, datetime.now(UTC), width), flush=True)
    for remark in [*remarks, *_not_whole(models, options.where(arguments))]:
        complain(remark)
    return 0


def _no_store(folder: Path, *, must_be: bool) -> list[str]:
    """What to say where there is no store yet. Raises StoreError where there can be none, or there `must_be` one."""
    from towline.errors import StoreError

    try:
        if any(name.startswith("manifests") for name in os.listdir(folder)):
            return []
    except (FileNotFoundError, NotADirectoryError) as error:
        if must_be or isinstance(error, NotADirectoryError):
            raise StoreError(f"{folder} is no folder; name the one that the models are in") from None
        return [f"there is no folder {folder} yet; the first pull makes it"]
    return [f"there are no models in {folder} yet"]


def _stored(folder: Path) -> list[Listed]:
    from towline.cli.daemon import Listed
    from towline.store.store import Store

    store = Store(folder)
    return [
        Listed(
            name=str(model.name),
            size=model.manifest.size,
            digest=model.manifest.digest.hex,
            modified_at=model.modified,
            missing=sum(blob.size for blob in model.manifest.blobs if not store.has_blob(blob.digest, blob.size)),
        )
        for model in store.list()
    ]


def _not_whole(models: Sequence[Listed], where: list[str]) -> list[str]:
    """A sentence for each of the first models that are not whole, and one for the rest of them."""
    sentences = [
        f"{model.name} is not whole, {units.size(model.missing)} of it are missing; "
        f"pull it again: {_command('pull', where, model.name)}"
        for model in models
        if model.missing
    ]
    if len(sentences) > _MOST_REMARKS:
        sentences[_MOST_REMARKS:] = [f"{len(sentences) - _MOST_REMARKS:,} more models are not whole"]
    return sentences


_MOST_REMARKS = 5
_UNBOUNDED = 1 << 16
"""Columns of an output that is no terminal."""


def _table(models: Sequence[Listed], now: datetime, width: int) -> str:
    """A row for each model; two, the first with its name alone, where a row would be wider than `width`."""
    rows = [("NAME", "ID", "SIZE", "MODIFIED")]
    rows += [
        (one_line(model.name), one_line(model.digest)[:12], units.size(model.size), units.ago(model.modified_at, now))
        for model in models
    ]
    table = _aligned(rows, "    ")
    if max(map(len, table)) <= width:
        return "\n".join(table)
    details = _aligned([row[1:] for row in rows], "  ")
    if max(map(len, details)) + 2 > width:
        details = _aligned([row[2:] for row in rows], "  ")
    return "\n".join(f"{row[0]}\n  {detail}" for row, detail in zip(rows, details, strict=True))


def _aligned(rows: Sequence[Sequence[str]], gap: str) -> list[str]:
    """The cells of each row in a line, those of a column below each other."""
    *columns, _ = zip(*rows, strict=True)
    widths = [max(map(len, column)) for column in columns]
    return [gap.join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1])) for row in rows]


def _json(models: Sequence[Listed]) -> str:
    import msgspec

    entries = [
        {
            "name": model.name,
            "model": model.name,
            "modified_at": model.modified_at.isoformat(),
            "size": model.size,
            "digest": model.digest,
        }
        for model in models
    ]
    return msgspec.json.encode({"models": entries}).decode()


def _path(arguments: argparse.Namespace) -> int:
    from towline.cli import target
    from towline.errors import NotFound
    from towline.model.manifest import MODEL_LAYER
    from towline.model.name import ModelName
    from towline.store.store import Store

    name = ModelName.parse(arguments.name)
    settings = options.settings(arguments)
    daemon = target.named(arguments)
    if daemon is not None and not daemon.keeps(settings.models):
        raise NotFound(
            f"the weights of {name} lie in the store of the daemon at {daemon.url}, on its machine, and not in "
            f"{settings.models}; ask for the path there, or look here with --local"
        )
    store = Store(settings.models)
    model = store.find(name)
    where = options.where(arguments)
    if model is None:
        _no_store(settings.models, must_be=arguments.models is not None)
        raise NotFound(_not_here(store, name, where))
    if model.manifest.layer(MODEL_LAYER) is None:
        raise NotFound(f"{name} is here, but has no single file of weights")
    weights = store.weights_path(model)
    if weights is None:
        raise NotFound(
            f"the weights of {name} are missing from the store; pull it again: {_command('pull', where, name)}"
        )
    # As bytes: a path need not be text in the terminal's encoding, and whoever reads it wants it as it is.
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(weights.absolute()) + b"\n")
    return 0


def _command(command: str, where: list[str], name: object) -> str:
    """The command line that does it to this model in the same store; see `options.where`."""
    return shlex.join(["towline", command, *where, str(name)])


def _not_here(store: Store, name: ModelName, where: list[str]) -> str:
    """What is so, where a model is not in the store: which of its other versions are."""
    unpinned = replace(name, digest=None)
    if name.digest is not None and (other := store.find(unpinned)) is not None:
        return f"{unpinned} is here with another digest, {other.manifest.digest}: {_command('path', where, unpinned)}"
    pull = _command("pull", where, name)
    tags = sorted(model.name.tag for model in store.list() if model.name.key[:3] == name.key[:3])
    if not tags:
        return f"{name} is not here; pull it first: {pull}"
    have = f"its tag {tags[0]} is" if len(tags) == 1 else f"its tags {', '.join(tags)} are"
    return f"{name} is not here, but {have}: {_command('path', where, replace(unpinned, tag=tags[0]))}; or {pull}"
