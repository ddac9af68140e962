"""`towline list`, `towline path`: what the store holds. They read it directly; no daemon is needed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from towline.cli import options, units

if TYPE_CHECKING:
    from towline.store.store import StoredModel

_LIST_EXAMPLES = """\
examples:
  towline list
  towline list llama             only names that begin so
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
        description="Shows the models in the store, newest first.",
        epilog=_LIST_EXAMPLES,
        formatter_class=options.Help,
        allow_abbrev=False,
    )
    list_.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="how the names begin")
    list_.add_argument("--json", action="store_true", help="print JSON")
    options.add_models(list_)
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
    path.set_defaults(run=_path)


def _list(arguments: argparse.Namespace) -> int:
    from towline.store.store import Store

    prefix = arguments.prefix.lower()
    models = [
        model
        for model in Store(options.settings(arguments).models).list()
        if str(model.name).lower().startswith(prefix)
    ]
    print(_json(models) if arguments.json else _table(models, datetime.now(UTC)))
    return 0


def _table(models: Sequence[StoredModel], now: datetime) -> str:
    rows = [("NAME", "ID", "SIZE", "MODIFIED")]
    rows += [
        (str(model.name), model.manifest.digest.short, units.size(model.manifest.size), units.ago(model.modified, now))
        for model in models
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "    ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3])) for row in rows
    )


def _json(models: Sequence[StoredModel]) -> str:
    import msgspec

    entries = [
        {
            "name": str(model.name),
            "model": str(model.name),
            "modified_at": model.modified.isoformat(),
            "size": model.manifest.size,
            "digest": model.manifest.digest.hex,
        }
        for model in models
    ]
    return msgspec.json.encode({"models": entries}).decode()


def _path(arguments: argparse.Namespace) -> int:
    from towline.errors import NotFound
    from towline.model.manifest import MODEL_LAYER
    from towline.model.name import ModelName
    from towline.store.store import Store

    name = ModelName.parse(arguments.name)
    store = Store(options.settings(arguments).models)
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
