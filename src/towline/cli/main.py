"""The entry: reads the command line, runs the command, and turns what goes wrong into a sentence and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted by Ctrl-C (143 by SIGTERM, 129 by SIGHUP), 141 the reader
of the output left.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from towline.cli import about, demo, logs, models, options, pull, serve
from towline.cli.logs import debugging
from towline.cli.text import complain

_DESCRIPTION = """\
Gets models onto this machine and keeps them: Ollama's store, Ollama's API.

commands:
  pull NAME...   get a model, or bring it up to date
  list, ls       show the models that are here
  path NAME      print where a model's weights lie
  serve          run the daemon: Ollama's model API on 127.0.0.1:11434
  demo           see it work, on a real model
  version        show the version
  help COMMAND   tell more about a command
"""

_EXAMPLES = """\
examples:
  towline pull llama3.2
  llama-server -m "$(towline path llama3.2)"
  OLLAMA_MODELS=/srv/models towline serve

environment:
  OLLAMA_MODELS    the store (default: ~/.ollama/models)
  OLLAMA_HOST      the server that is meant, and where serve listens
  TOWLINE_MIRRORS  host=endpoint,... to ask instead of a registry
  TOWLINE_LOG      json writes the log of serve as objects, one a line
  OLLAMA_DEBUG     1 has serve log every request
  TOWLINE_DEBUG    1 shows where an error comes from
"""


class _Parser(argparse.ArgumentParser):
    def parse_known_args(  # type: ignore[override] # typeshed has an overload for each kind of namespace
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:  # here and not in the root, which does not know any more whose they are
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.dest == "command" and value not in (action.choices or ()):
            self.error(f"there is no command {value!a}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("towline").strip()
        self.exit(2, f"{self.prog}: {message}\nTry: towline help{f' {command}' if command else ''}\n")


class _Root(_Parser):
    def parse_known_args(  # type: ignore[override] # as above
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        first, *others = (sys.argv[1:] if args is None else args) or [""]
        option = first.partition("=")[0]
        if option.startswith("-") and option not in ("--", *self._option_string_actions) and others:
            self.error(f"{option} stands before the command; options come behind it: towline COMMAND {option}")
        return super().parse_known_args(args, namespace)


def parser() -> argparse.ArgumentParser:
    """The whole command line. Every command leaves its function in `run`."""
    root = _Root(
        prog="towline",
        usage="towline COMMAND [OPTION...]",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=options.Help,
        allow_abbrev=False,
    )
    about.add_version(root)
    commands = root.add_subparsers(
        parser_class=_Parser, prog="towline", metavar="COMMAND", dest="command", help=argparse.SUPPRESS
    )
    for group in (pull, models, serve, demo):
        group.add(commands)
    about.add(commands, root)
    root.set_defaults(run=lambda _: about.show(root))
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; never raises but for `SystemExit` while the arguments are wrong. Returns the exit code."""
    _never_fail_on_a_character()
    try:
        code = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return 141
    except OSError as error:  # /dev/full, a disk that ran out, a terminal that is gone
        _drop_output()
        complain(f"the output could not be written: {error.strerror or error}")
        return 1
    return code


def _run(argv: Sequence[str] | None) -> int:
    from towline.errors import InvalidName, TowlineError

    debug = debugging()
    if debug:
        logs.configure()
    try:
        arguments = parser().parse_args(argv)
        code: int = arguments.run(arguments)
    except SystemExit as leaving:  # argparse: help was shown, or the usage was wrong
        return leaving.code if isinstance(leaving.code, int) else 1
    except KeyboardInterrupt as interrupt:
        return getattr(interrupt, "exit_code", 130)
    except TowlineError as error:
        if debug:
            raise
        complain(str(error))
        return 2 if isinstance(error, InvalidName) else 1  # a name is an argument
    except OSError as error:
        if debug or error.filename is None:  # without a file it is the output: the core wraps what else there is
            raise
        complain(f"{error.filename}: {error.strerror}")
        return 1
    except Exception as error:  # the last resort: a person gets a sentence, not a traceback
        if debug:
            raise
        complain(
            f"something went wrong that should not have ({type(error).__name__}: {error}); "
            "TOWLINE_DEBUG=1 shows where, and a report of it is welcome"
        )
        return 1
    return code


def _never_fail_on_a_character() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _drop_output() -> None:
    """Lets nothing be written any more, so that the interpreter's own flush at its end says nothing."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
