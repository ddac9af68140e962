"""Options that several commands share, and the settings that they and the environment make."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from towline.settings import Settings


class Help(argparse.RawDescriptionHelpFormatter):
    """Help with its options in one column."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)


def add_models(parser: argparse.ArgumentParser) -> None:
    """`--models`, the store."""
    parser.add_argument(
        "--models", metavar="DIR", type=_folder, help="the store (default: OLLAMA_MODELS, else ~/.ollama/models)"
    )


def add_host(parser: argparse.ArgumentParser, meaning: str) -> None:
    """`--host`, an address; `meaning` says whose."""
    parser.add_argument("--host", metavar="HOST[:PORT]", help=f"{meaning} (default: OLLAMA_HOST, else 127.0.0.1:11434)")


def add_max_rate(parser: argparse.ArgumentParser, meaning: str) -> None:
    """`--max-rate`, a bandwidth; `meaning` says whose."""
    parser.add_argument("--max-rate", metavar="RATE", help=f"bandwidth of {meaning}: 20MB/s, 512k, 100Mbit/s")


def settings(arguments: argparse.Namespace) -> Settings:
    """What the environment says, and over it what the command line does. Raises InvalidRequest."""
    from dataclasses import replace

    from towline.errors import InvalidRequest
    from towline.settings import Listen, Settings, parse_rate

    try:
        found = Settings.from_environ(os.environ)
    except RuntimeError:
        raise InvalidRequest("no home folder to keep models in; name a folder with --models or OLLAMA_MODELS") from None
    if arguments.models is not None:
        found = replace(found, models=arguments.models)
    if getattr(arguments, "host", None) is not None:
        found = replace(found, listen=Listen.parse(arguments.host))
    if getattr(arguments, "max_rate", None) is not None:
        found = replace(found, max_rate=parse_rate(arguments.max_rate, "--max-rate"))
    return found


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("it takes a folder")
    return Path(text).expanduser()
