"""Options that several commands share, and the settings that they and the environment make."""

from __future__ import annotations

import argparse
import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from towline.cli.text import complain
from towline.environ import variable

if TYPE_CHECKING:
    from towline.settings import Settings


class Help(argparse.RawDescriptionHelpFormatter):
    """Help with its options in one column, and with its texts as they are written where they fit, else refilled."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)

    def _format_usage(self, *usage: Any) -> str:
        text = super()._format_usage(*usage)
        if all(len(line) <= self._width for line in text.splitlines()):
            return text
        narrow = textwrap.wrap(" ".join(text.split()), self._width, subsequent_indent="    ", break_on_hyphens=False)
        return "\n".join(narrow) + "\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = [line for part in _parts(text) for line in _refilled(part.splitlines(), width - len(indent))]
        return textwrap.indent("\n".join(lines), indent)


def _parts(text: str) -> list[str]:
    """Paragraphs of prose, and each line that stands alone: an empty one, or one that is indented."""
    return re.findall(r"(?m)^(?:[ ].*|$|(?:(?![ ]).+\n?)+)", text)


def _refilled(lines: list[str], width: int) -> list[str]:
    """The part of a text in lines that fit.

    >>> _refilled(["Gets models into the store,", "or updates them."], 20)
    ['Gets models into the', 'store, or updates', 'them.']
    >>> _refilled(["  pull NAME...   get a model"], 20)
    ['  pull NAME...', '      get a model']
    >>> _refilled(["  towline pull mistral:7b-instruct llama3.2"], 36)
    ['  towline pull mistral:7b-instruct \\\\', '    llama3.2']
    """
    if all(len(line) <= width for line in lines):
        return lines or [""]
    if not lines[0].startswith(" "):
        return textwrap.wrap(" ".join(lines), width, break_on_hyphens=False)
    term, _, meaning = re.sub(r"(?<=\S) {2,}", "\n", lines[0], count=1).partition("\n")
    words = textwrap.wrap(
        term, width - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
    described = textwrap.wrap(meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return [*(f"{line} \\" for line in words[:-1]), words[-1], *described]


def add_models(parser: argparse.ArgumentParser) -> None:
    """`--models`, the store."""
    parser.add_argument(
        "--models", metavar="DIR", type=_folder, help="the store (default: OLLAMA_MODELS, else ~/.ollama/models)"
    )


def add_host(parser: argparse.ArgumentParser) -> None:
    """`--host`, where a daemon is to listen."""
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        type=_listen,
        help="where to listen, host:port (default: OLLAMA_HOST, else 127.0.0.1:11434)",
    )


def add_server(parser: argparse.ArgumentParser, meaning: str) -> None:
    """`--host` and `--local`, of which one can be given: who is to do it. `meaning` is what a server does there."""
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--host",
        metavar="ADDRESS",
        type=_server,
        help=f"the server that {meaning}, a towline or an Ollama, also as a URL (default: OLLAMA_HOST, if it is set)",
    )
    who.add_argument("--local", action="store_true", help="do it here, in the store of --models, and ask no server")


def where(arguments: argparse.Namespace) -> list[str]:
    """What was given of `--models`, `--host` and `--local`, for a command line that is to mean the same store; without
    a password, which whoever reads it knows.
    """
    given = [] if arguments.models is None else ["--models", str(arguments.models)]
    if arguments.host is not None:
        given += ["--host", _without_a_password(arguments.host)]
    return [*given, "--local"] if arguments.local else given


def _without_a_password(host: str) -> str:
    from towline.cli.address import Address

    return Address.parse(host).url if "@" in host else host


def add_keep_trying(parser: argparse.ArgumentParser) -> None:
    """`--keep-trying`."""
    parser.add_argument(
        "--keep-trying",
        action="store_true",
        help="wait for a registry that is away as long as it takes (default: TOWLINE_KEEP_TRYING, else not)",
    )


def add_max_rate(parser: argparse.ArgumentParser, meaning: str) -> None:
    """`--max-rate`, a bandwidth; `meaning` says whose."""
    parser.add_argument(
        "--max-rate",
        metavar="RATE",
        type=_rate,
        help=f"bandwidth of {meaning}: 20MB/s, 512k, 100Mbit/s (default: TOWLINE_MAX_RATE, else no limit)",
    )


def max_rate(arguments: argparse.Namespace) -> str | None:
    """The limit that the command line gives, else the environment, as it is written there."""
    return arguments.max_rate or variable("TOWLINE_MAX_RATE") or None


def settings(arguments: argparse.Namespace) -> Settings:
    """What the environment says, and over it what the command line does. Raises InvalidRequest.

    Complains of an address in OLLAMA_HOST that is read otherwise than it is written, where it is asked for.
    """
    from dataclasses import replace

    from towline.errors import InvalidRequest
    from towline.settings import Listen, Settings, impossible_port, parse_rate, shown

    try:
        found = Settings.from_environ(os.environ)
    except RuntimeError:
        raise InvalidRequest("no home folder to keep models in; name a folder with --models or OLLAMA_MODELS") from None
    if arguments.models is not None:
        found = replace(found, models=arguments.models)
    if getattr(arguments, "host", None) is not None:
        found = replace(found, listen=Listen.parse(arguments.host))
    elif (
        "host" in arguments
        and not getattr(arguments, "local", False)
        and (port := impossible_port(variable("OLLAMA_HOST")))
    ):
        complain(
            f"OLLAMA_HOST names the port {shown(port)}, which is none; {found.listen.port} is used, as Ollama does"
        )
    if getattr(arguments, "max_rate", None) is not None:
        found = replace(found, max_rate=parse_rate(arguments.max_rate, "--max-rate"))
    return found


def _as_written(check: Callable[[str], object]) -> Callable[[str], str]:
    """An argument that stays text, for a daemon or for the next command line, once `check` has taken it."""

    def checked(text: str) -> str:
        from towline.errors import InvalidRequest

        try:
            check(text)
        except InvalidRequest as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return checked


@_as_written
def _listen(text: str) -> None:
    from towline.settings import Listen

    _not_empty(text)
    Listen.parse_strictly(text)


@_as_written
def _server(text: str) -> None:
    from towline.cli.address import Address
    from towline.settings import Listen

    _not_empty(text)
    Listen.parse_strictly(text)
    Address.parse(text)


def _not_empty(text: str) -> None:
    """Raises InvalidRequest for what an unset variable leaves: no default is meant by that."""
    from towline.errors import InvalidRequest

    if not text.strip():
        raise InvalidRequest("it takes an address")


@_as_written
def _rate(text: str) -> None:
    from towline.settings import parse_rate

    parse_rate(text, "it")


def _folder(text: str) -> Path:
    from towline.errors import InvalidRequest
    from towline.settings import parse_folder

    if not text.strip():
        raise argparse.ArgumentTypeError("it takes a folder")
    try:
        return parse_folder(text, "it")
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(str(error)) from None
