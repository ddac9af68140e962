"""The command as a person runs it: the installed script, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.support.daemon import TOWLINE, clean_environment
from tests.support.events import Pull, check_pull, check_sentence
from tests.support.models import Model

TIMEOUT = 60.0
"""Seconds after which a command counts as hung."""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Standard output, a line each."""
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        """Standard output, parsed."""
        return json.loads(self.out)

    def pull(self, *, model: Model | None = None, success: bool = True) -> Pull:
        """Standard output as the checked events of one pull."""
        return check_pull([json.loads(line) for line in self.lines], success=success, model=model)

    @property
    def said(self) -> list[str]:
        """What it said on standard error, but for who did it."""
        lines = self.err.splitlines()
        assert all(line.startswith("towline: ") for line in lines), self
        return [line.removeprefix("towline: ") for line in lines if line != self._by_a_daemon]

    @property
    def by(self) -> str:
        """Which daemon did it, as was said before anything else; empty where this process did."""
        first = next(iter(self.err.splitlines()), "")
        return first.partition(" by the daemon at ")[2].partition(", which has its own settings")[0]

    @property
    def without_effect(self) -> str:
        """The settings that the daemon does not heed, as they are named."""
        return next(iter(self.err.splitlines()), "").partition("; without effect there: ")[2]

    @property
    def _by_a_daemon(self) -> str | None:
        return self.err.splitlines()[0] if self.by else None

    def failed(self, code: int = 1) -> str:
        """The sentence with which it failed."""
        assert self.code == code, self
        (sentence,) = self.said
        check_sentence(sentence)
        return sentence


class Command:
    """`towline` over one store. No server is named, and none at the default address has this store."""

    def __init__(self, home: Path, store: Path) -> None:
        self.environment = {
            **clean_environment(home),
            "OLLAMA_MODELS": str(store),
            "XDG_CACHE_HOME": str(home / ".cache"),
        }

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> Result:
        """Runs it to its end."""
        with self.start(*arguments, env=env) as running:
            return running.wait()

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Running:
        """Starts it, its output in pipes."""
        return Running(arguments, {**self.environment, **(env or {})})

    def on_terminal(self, *arguments: str, env: Mapping[str, str] | None = None, columns: int = 80) -> Result:
        """Runs it to its end with standard output on a terminal; `out` is what it drew."""
        environment = {**self.environment, "TERM": "xterm-256color", "COLUMNS": str(columns), **(env or {})}
        ours, theirs = pty.openpty()
        try:
            process = subprocess.Popen(
                [TOWLINE, *arguments], env=environment, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE
            )
        finally:
            os.close(theirs)
        drawn = b""
        with contextlib.closing(os.fdopen(ours, "rb", buffering=0)) as screen, contextlib.suppress(OSError):
            while piece := screen.read(65536):
                drawn += piece
        _, err = process.communicate(timeout=TIMEOUT)
        return Result(process.returncode, drawn.decode(errors="replace"), err.decode())


class Running:
    """A command that runs; leaving the `with` kills it if it still does."""

    def __init__(self, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [TOWLINE, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._out = b""
        self._tells_all = environment.get("TOWLINE_DEBUG", "0") != "0"

    @property
    def pid(self) -> int:
        return self._process.pid

    def read_until(self, condition: Callable[[bytes], bool]) -> bytes:
        """Reads standard output until all of it so far is so."""
        assert self._process.stdout
        deadline = time.monotonic() + TIMEOUT
        while not condition(self._out):
            assert time.monotonic() < deadline, self._out
            if select.select([self._process.stdout], [], [], 1)[0]:
                piece = os.read(self._process.stdout.fileno(), 65536)
                assert piece, f"it ended first: {self._out!r} {self._process.communicate()[1]!r}"
                self._out += piece
        return self._out

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        self._process.send_signal(number)

    def hang_up(self) -> None:
        """Reads nothing more of its output: the pipe's other end closes."""
        assert self._process.stdout
        self._process.stdout.close()
        self._process.stdout = None

    def wait(self) -> Result:
        """Its end. Raises AssertionError when it does not come, or with a traceback that nobody asked for."""
        try:
            out, err = self._process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs: {self._process.args!r}") from None
        result = Result(self._process.returncode, (self._out + (out or b"")).decode(), err.decode())
        assert self._tells_all or "Traceback" not in result.err, result.err
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(ValueError):
            self._process.communicate()
