"""`towline list`, `towline path`: what the store holds, or what the server has that is meant.

They read the store directly; no daemon is needed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from towline.cli import options, units
from towline.cli.text import one_line

if TYPE_CHECKING:
    from towline.cli.daemon import Listed

_LIST_EXAMPLES = """\
examples:
  towline list
  towline list llama             only names that begin so
  towline list --host models.example   those of the server there
  towline list --json            as GET /api/tags tells it, without the details
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
        found = daemon.models()
    else:
        found = _stored(settings.models)
    prefix = arguments.prefix.lower()
    models = [model for model in found if model.name.lower().startswith(prefix)]
    print(_json(models) if arguments.json else _table(models, datetime.now(UTC)))
    return 0


def _stored(folder: Path) -> list[Listed]:
    from towline.cli.daemon import Listed
    from towline.store.store import Store

    return [
        Listed(str(model.name), model.manifest.size, model.manifest.digest.hex, model.modified)
        for model in Store(folder).list()
    ]


def _table(models: Sequence[Listed], now: datetime) -> str:
    rows = [("NAME", "ID", "SIZE", "MODIFIED")]
    rows += [
        (one_line(model.name), one_line(model.digest)[:12], units.size(model.size), units.ago(model.modified_at, now))
        for model in models
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "    ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3])) for row in rows
    )


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
    if model is None:
        raise NotFound(f"{name} is not here; pull it first: towline pull {name}")
    if model.manifest.layer(MODEL_LAYER) is None:
        raise NotFound(f"{name} is here, but has no single file of weights")
    weights = store.weights_path(model)
    if weights is None:
        raise NotFound(f"the weights of {name} are missing from the store; pull it again: towline pull {name}")
    # As bytes: a path need not be text in the terminal's encoding, and whoever reads it wants it as it is.
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(weights.absolute()) + b"\n")
    return 0
