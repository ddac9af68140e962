"""A network of one thread's own: addresses of any kind on this machine, some of them dead, and names for them.

def body() -> None:
    with FaultRegistry(address="8.8.8.8") as registry: …
Network(tmp_path, addresses=["8.8.8.8"], dead=["2606:4700::1"], names={"models.test": ["8.8.8.8"]}).run(body)
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tests.support.components import lacking, require

T = TypeVar("T")

_NEW_MOUNTS, _NEW_NETWORK = 0x20000, 0x40000000  # CLONE_NEWNS, CLONE_NEWNET


class Network:
    """`addresses` are this machine's; what is sent to the `dead` ones among them is dropped without a word."""

    def __init__(
        self,
        folder: Path,
        *,
        addresses: Sequence[str] = (),
        dead: Sequence[str] = (),
        names: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        if os.geteuid() != 0:
            lacking("it takes root to make a network")
        for program in ("ip", "iptables", "ip6tables"):
            require(program)
        self._addresses = [*addresses, *dead]
        self._dead = dead
        self._hosts = folder / "hosts"
        lines = [f"{address} {name}" for name, each in (names or {}).items() for address in each]
        self._hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    def run(self, body: Callable[[], T]) -> T:
        """What `body` returns or raises, run on a thread that sees this network, as do all threads that it starts."""
        with ThreadPoolExecutor(1, "network", self._enter) as thread:
            return thread.submit(body).result()

    def _enter(self) -> None:
        if ctypes.CDLL(None).unshare(_NEW_MOUNTS | _NEW_NETWORK):
            raise OSError("a namespace for the thread cannot be made")
        _run("mount", "--make-rprivate", "/")
        _run("mount", "--bind", self._hosts, "/etc/hosts")
        _run("ip", "link", "set", "lo", "up")
        for address in self._addresses:
            _run("ip", "addr", "replace", f"{address}/{128 if ':' in address else 32}", "dev", "lo")
        for address in self._dead:
            _run("ip6tables" if ":" in address else "iptables", "-A", "INPUT", "-d", address, "-j", "DROP")


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)
