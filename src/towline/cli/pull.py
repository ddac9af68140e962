"""`towline pull`: by the server that is meant, or a towline daemon over the same store, else in this process.

It looks the same.
"""

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
    from towline.store.store import Store

    Source = Callable[[str], Generator[Event, None, None]]
    """The events of a pull of this model; closing them leaves the pull, an error is raised at the end."""

_DESCRIPTION = """\
Gets models from their registry into the store, or brings them up to date. A
pull that was interrupted goes on where it stood.

A server that --host or OLLAMA_HOST names does it, into its own store and with
its own settings; without a name, a towline daemon at the default address that
keeps the same store does, and else this command itself.

A limit (--max-rate, or TOWLINE_MAX_RATE) is of what this pull starts: where
the same model is being pulled already, this one joins and its limit does not
apply. A daemon that has a limit as well keeps to the lower of the two.
"""

_EXAMPLES = """\
examples:
  towline pull llama3.2
  towline pull mistral:7b-instruct nomic-embed-text
  towline pull registry.example:5000/team/model:v2
  towline pull --max-rate 20MB/s llama3.2
  towline pull --dry-run llama3.2   what would be fetched, with nothing stored
  towline pull --host https://models.example llama3.2
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
    pull.add_argument(
        "names", nargs="+", metavar="NAME", help="a model, such as llama3.2, team/mistral:7b or host:5000/team/model"
    )
    shown = pull.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print the events of POST /api/pull instead of bars")
    shown.add_argument(
        "-q", "--quiet", action="store_true", help="print nothing but errors, and settings that have no effect"
    )
    pull.add_argument(
        "--dry-run", action="store_true", help="tell what would be fetched and whether it fits; store nothing"
    )
    options.add_models(pull)
    options.add_server(pull, "pulls")
    options.add_max_rate(pull, "this pull")
    options.add_keep_trying(pull)
    pull.set_defaults(run=_pull)


def _pull(arguments: argparse.Namespace) -> int:
    from towline.cli.signals import Interrupted, interruptible
    from towline.errors import InvalidName, TowlineError

    left, failed = list(arguments.names), []
    codes = {0}
    try:
        with interruptible(), _source(arguments) as source:
            while left:
                try:
                    _one(left[0], source, _view(arguments, left[0]))
                except TowlineError as error:
                    told = len(arguments.names) == 1 or left[0] in str(error)
                    complain(str(error) if told else f"{left[0]}: {error}")
                    codes.add(2 if isinstance(error, InvalidName) else 1)
                    failed.append(left[0])
                left.pop(0)
    except Interrupted as interrupt:
        if left:
            _say_how_to_go_on(arguments, left)
            return interrupt.exit_code
    if failed and len(arguments.names) > 1 and not arguments.quiet:
        _sum_up(arguments.names, failed)
    return 1 if 1 in codes else max(codes)


@contextmanager
def _source(arguments: argparse.Namespace) -> Iterator[Source]:
    from towline.cli import daemon, target

    settings = options.settings(arguments)
    keep_trying = arguments.keep_trying or settings.keep_trying
    found = target.named(arguments)
    if found is None and not arguments.local:
        found = daemon.find(settings.models)
    if found is not None:
        without_effect = target.settings_without_effect(found, arguments, settings)
        refuses = arguments.dry_run and found.towline is None
        if (without_effect or not arguments.quiet) and not refuses:
            target.tell(found, "compared" if arguments.dry_run else "pulled", without_effect)
        yield partial(
            found.pull,
            max_rate=options.max_rate(arguments),
            keep_trying=keep_trying,
            interleave=not arguments.json,
            dry_run=arguments.dry_run,
        )
        return
    from towline import collector
    from towline.cli import logs
    from towline.model.name import ModelName
    from towline.puller import Puller

    logs.configure()
    collector.rest()
    with closing(Puller(settings)) as puller:
        if not arguments.dry_run:
            _prepare(puller.store)

        def embedded(name: str) -> Generator[Event, None, None]:
            begin = puller.dry_run if arguments.dry_run else puller.join
            watcher = begin(ModelName.parse(name), keep_trying=keep_trying)
            watcher.interleave = not arguments.json
            yield from watcher.events()

        yield embedded


def _prepare(store: Store) -> None:
    """Raises StoreError where nothing can be pulled; a store that can only be read may have what is asked for."""
    from towline.errors import StoreError

    try:
        store.prepare()
    except StoreError:
        if not store.readable:
            raise


def _view(arguments: argparse.Namespace, name: str) -> View:
    from towline.cli import render

    if arguments.quiet:
        return render.Nothing()
    if arguments.json:
        return render.Wire()
    return render.Lines(name) if arguments.dry_run else render.best_view(name)


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


def _sum_up(names: list[str], failed: list[str]) -> None:
    done = [name for name in names if name not in failed]
    complain(f"{len(failed)} of {len(names)} failed: {', '.join(failed)}; done: {', '.join(done) or 'none'}")


def _say_how_to_go_on(arguments: argparse.Namespace, left: list[str]) -> None:
    again = ["towline", "pull", *options.where(arguments)]
    if arguments.max_rate is not None:
        again += ["--max-rate", arguments.max_rate]
    flags = ("--keep-trying", "--dry-run")
    again += [flag for flag in flags if getattr(arguments, flag[2:].replace("-", "_"))]
    kept = "" if arguments.dry_run else "what has arrived is kept, "
    complain(f"interrupted; {kept}go on with: {shlex.join(again + left)}")
