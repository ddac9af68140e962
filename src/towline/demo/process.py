"""A `towline serve` in a process of its own, for as long as the demonstration runs."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from towline.errors import TowlineError

_READY = 20.0
"""Seconds for a daemon to answer: a second is usual, a machine under load takes more."""

_END = 5.0
"""Seconds for it to end; it promises two."""

_TRIES = 3
"""A free port may be taken by somebody else before the daemon has it."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Signals to stop that come inside take effect at its end: what is half done gets done. For the main thread."""
    came: list[tuple[int, FrameType | None]] = []
    stopping = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *seen: came.append(seen)) for number in stopping}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for seen, frame in came:
            if callable(handler := before[signal.Signals(seen)]):
                handler(seen, frame)


class Daemon:
    """A daemon over `store` on a free port of 127.0.0.1, there while inside the `with`.

    Of the person's environment it gets what is not about towline or Ollama, and `environment` over it.
    """

    def __init__(self, store: Path, log: Path, environment: Mapping[str, str]) -> None:
        self._store = store
        self._log = log
        self._environment = _environment(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        """Starts it and waits until it answers. Raises TowlineError with its last words if it does not."""
        for _ in range(_TRIES):
            self._port = _free_port()
            try:
                if self._answers(self._start()):
                    return self
            except BaseException:
                self._end()
                raise
            self._end()
        raise TowlineError(f"the daemon for the demonstration did not start: {self._last_words()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "towline", "serve"]
        command += ["--host", f"127.0.0.1:{self._port}", "--models", str(self._store)]
        with undisturbed(), self._log.open("ab") as log:
            # A session of its own: Ctrl-C is for the demonstration, which ends its daemons itself, in order.
            self._process = subprocess.Popen(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self._process

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + _READY
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(self._connect()) as link:
                link.request("GET", "/towline/info")
                if link.getresponse().status == 200:
                    return True
            time.sleep(0.02)
        return False

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=1)

    def _end(self) -> None:
        with undisturbed():
            process, self._process = self._process, None
            if process is None:
                return
            process.terminate()
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").strip().splitlines()
            return lines[-1] if lines else "it said nothing"
        return "it said nothing"


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "TOWLINE_"))}
    return {**kept, "PYTHONUNBUFFERED": "1", **own}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
