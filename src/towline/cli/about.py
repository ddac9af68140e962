"""`towline version`, `towline help`."""

from __future__ import annotations

import argparse
from typing import Any

from towline._version import __version__

_VERSION = f"towline {__version__}"


def add_version(root: argparse.ArgumentParser) -> None:
    """`--version`."""
    root.add_argument("--version", action="version", version=_VERSION, help="show the version and end")


def add(commands: Any, root: argparse.ArgumentParser) -> None:
    """Adds the group's commands; `root` is what `help` is about."""
    version = commands.add_parser("version", description="Shows the version of towline.")
    version.set_defaults(run=_version)

    help_ = commands.add_parser("help", description="Shows help.")
    help_.add_argument("topic", nargs="?", metavar="COMMAND", help="the command to tell about")
    help_.set_defaults(run=lambda arguments: show(root, arguments.topic, commands.choices))


def show(
    root: argparse.ArgumentParser, topic: str | None = None, commands: dict[str, argparse.ArgumentParser] | None = None
) -> int:
    """Prints the help of the whole, or of the command `topic`."""
    if topic is None:
        root.print_help()
    elif commands and topic in commands:
        commands[topic].print_help()
    else:
        root.error(f"there is no command {topic!a}")
    return 0


def _version(_: argparse.Namespace) -> int:
    print(_VERSION)
    return 0
