"""`towline serve`."""

from __future__ import annotations

import argparse
from typing import Any

from towline.cli import options

_DESCRIPTION = """\
Answers Ollama's API for pulling and listing models, and serves its models to
other machines as a registry (/v2/). Ends on Ctrl-C; what a pull has brought
by then is kept.
"""

_EXAMPLES = """\
examples:
  towline serve
  towline serve --host 0.0.0.0:11434 --models /srv/models
  TOWLINE_MAX_RATE=20MB/s towline serve
"""


def add(commands: Any) -> None:
    """Adds the command."""
    serve = commands.add_parser(
        "serve",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=options.Help,
        allow_abbrev=False,
    )
    options.add_host(serve)
    options.add_models(serve)
    options.add_max_rate(serve, "all downloads together")
    serve.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    settings = options.settings(arguments)
    from towline.server.serve import serve

    return serve(settings)
