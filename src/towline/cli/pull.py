"""`towline pull`: through a towline daemon that keeps the same store, else in this process. It looks the same."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from towline.cli import options
from towline.cli.text import complain

if TYPE_CHECKING:
    from collections.abc import Generator

    from towline.cli.render import View
    from towline.model.events import Event
    from towline.settings import Settings

    Source = Callable[[str], Generator[Event, None, None]]
    """The events of a pull of this model; closing them leaves the pull, an error is raised at the end."""

_DESCRIPTION = """\
Gets models from their registry into the store, or brings them up to date. A
pull that was interrupted goes on where it stood. With a towline daemon on this
machine that keeps the same store, the daemon does it, with its own settings.

A limit (--max-rate, or TOWLINE_MAX_RATE) is of what this pull starts: where the
same model is being pulled already, this one joins it and its limit does not
apply. A daemon that has a limit as well keeps to the lower of the two.
"""

_EXAMPLES = """\
examples:
  towline pull llama3.2
  towline pull mistral:7b-instruct nomic-embed-text
  towline pull registry.example:5000/team/model:v2
  towline pull --max-rate 20MB/s llama3.2
  towline pull --json llama3.2      events for programs, a JSON object a line
"""


def add(commands: Any) -> None:
    """Adds the command."""
    pull = commands.add_parser(
        "pull",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=options.Help,
        allow_abbrev=False,
    )
    pull.add_argument("names", nargs="+", metavar="NAME", help="[host[:port]/][namespace/]model[:tag]")
    pull.add_argument("--json", action="store_true", help="print the events of POST /api/pull instead of bars")
    options.add_models(pull)
    options.add_host(pull, "where a daemon may be")
    options.add_max_rate(pull, "this pull")
    pull.set_defaults(run=_pull)


def _pull(arguments: argparse.Namespace) -> int:
    from towline.cli import render
    from towline.cli.signals import Interrupted, interruptible
    from towline.errors import InvalidName, TowlineError

    settings = options.settings(arguments)
    left = list(arguments.names)
    codes = {0}
    try:
        with interruptible(), _source(settings, options.max_rate(arguments)) as source:
            while left:
                try:
                    _one(left[0], source, render.Wire() if arguments.json else render.best_view(left[0]))
                except TowlineError as error:
                    told = len(arguments.names) == 1 or left[0] in str(error)
                    complain(str(error) if told else f"{left[0]}: {error}")
                    codes.add(2 if isinstance(error, InvalidName) else 1)
                left.pop(0)
    except Interrupted as interrupt:
        if left:
            _say_how_to_go_on(arguments, left)
            return interrupt.exit_code
    return 1 if 1 in codes else max(codes)


@contextmanager
def _source(settings: Settings, max_rate: str | None) -> Iterator[Source]:
    from towline.cli import daemon

    found = daemon.find(settings.listen, settings.models)
    if found is not None:
        yield partial(found.pull, max_rate=max_rate)
        return
    from towline.cli import logs
    from towline.model.name import ModelName
    from towline.puller import Puller

    logs.configure()
    with closing(Puller(settings)) as puller:
        puller.store.prepare()

        def embedded(name: str) -> Generator[Event, None, None]:
            yield from puller.join(ModelName.parse(name)).events()

        yield embedded


def _one(name: str, source: Source, view: View) -> None:
    """Pulls one model and shows it. Raises TowlineError where that failed; the view knows it then."""
    from towline.errors import TowlineError
    from towline.model.name import ModelName

    try:
        ModelName.parse(name)  # before anything is drawn or asked
        with view, closing(source(name)) as events:
            for event in events:
                view.show(event)
    except TowlineError as error:
        view.fail(str(error))
        raise


def _say_how_to_go_on(arguments: argparse.Namespace, left: list[str]) -> None:
    again = ["towline", "pull"]
    if arguments.models is not None:
        again += ["--models", str(arguments.models)]
    if arguments.host is not None:
        again += ["--host", arguments.host]
    if arguments.max_rate is not None:
        again += ["--max-rate", arguments.max_rate]
    complain(f"interrupted; what has arrived is kept, go on with: {shlex.join(again + left)}")
