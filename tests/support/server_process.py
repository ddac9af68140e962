"""A server of somebody else's that runs while a test does."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class ServerProcess:
    """A program that serves HTTP on a port of 127.0.0.1; what it prints goes to `log`."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        port: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
        probe: str = "/",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Starts it and waits until `probe` is answered, with whatever status. Raises AssertionError if it ends."""
        self._log = log
        self._port, self._probe, self._tls = port, probe, tls
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(command), env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._log.read_text(errors="replace")

    def probe(self, query: str = "") -> None:
        """Asks what it was waited for with, and waits for the answer."""
        link = (
            http.client.HTTPSConnection("127.0.0.1", self._port, timeout=5, context=self._tls)
            if self._tls
            else http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        )
        with contextlib.closing(link):
            link.request("GET", self._probe + query)
            link.getresponse().read()

    def close(self) -> None:
        """Ends it, with SIGTERM and, if that does not help, with SIGKILL."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_until_ready(self, timeout: float = 15) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"it ended with {self._process.returncode}:\n{self.output}"
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.probe()
                return
            time.sleep(0.02)
        raise AssertionError(f"it did not answer within {timeout} s:\n{self.output}")
