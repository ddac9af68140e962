"""Who carries a command out: the server that is meant, or this process. What that means for the settings is said."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from towline.cli.text import complain
from towline.environ import variable

if TYPE_CHECKING:
    from towline.cli.daemon import Daemon
    from towline.settings import Settings


def named(arguments: argparse.Namespace) -> Daemon | None:
    """The server that `--host` or OLLAMA_HOST names; None where neither does, or `--local` says that none is meant.

    Raises TowlineError where it cannot be asked: whoever names a server means that one, and not this machine.
    """
    from towline.cli import daemon
    from towline.cli.address import Address
    from towline.errors import InvalidRequest, TowlineError

    by, text = ("--host", arguments.host) if arguments.host is not None else ("OLLAMA_HOST", variable("OLLAMA_HOST"))
    if arguments.local or not text:
        return None
    try:
        return daemon.at(Address.parse(text))
    except InvalidRequest as error:
        raise InvalidRequest(f"{by} cannot be used: {error}") from None
    except daemon.Unusable as error:
        raise TowlineError(
            f"{by} names the server that is meant, but {error}; check the address, and what runs there, "
            "or do it here with --local"
        ) from None


def tell(daemon: Daemon, done: str, without_effect: list[str]) -> None:
    """Says that another process does it, and what of the command's settings does not reach that."""
    ignored = f"; without effect there: {', '.join(without_effect)}" if without_effect else ""
    complain(f"{done} by the daemon at {daemon.url}, which has its own settings{ignored}")


def store_without_effect(daemon: Daemon, arguments: argparse.Namespace, settings: Settings) -> list[str]:
    """What names a store that is not the daemon's, as it was given."""
    if daemon.keeps(settings.models):
        return []
    if arguments.models is not None:
        return ["--models"]
    return ["OLLAMA_MODELS"] if variable("OLLAMA_MODELS") else []


def settings_without_effect(daemon: Daemon, arguments: argparse.Namespace, settings: Settings) -> list[str]:
    """What was given to a pull and is another in the daemon, or does not exist there, as it was given."""
    theirs = daemon.towline.settings if daemon.towline is not None else {}
    given = [name for name, mark in settings.marks().items() if variable(name) and theirs.get(name) != mark]
    if daemon.towline is None:
        if settings.max_rate is not None:
            given.append("--max-rate" if arguments.max_rate is not None else "TOWLINE_MAX_RATE")
        if arguments.keep_trying or settings.keep_trying:
            given.append("--keep-trying" if arguments.keep_trying else "TOWLINE_KEEP_TRYING")
    return store_without_effect(daemon, arguments, settings) + given
