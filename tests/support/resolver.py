"""A name that is really resolved, and really gone: a process gets an /etc/hosts of its own, in a mount namespace."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.components import lacking, require

NAME = "registry.test"

_ENTER = 'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && shift 2 && exec "$@"'


class Resolver:
    """The files of a folder; `within` starts a process that sees them."""

    def __init__(self, folder: Path) -> None:
        if os.geteuid() != 0:
            lacking("it takes root to give a process files of its own under /etc")
        folder.mkdir()
        self._hosts = folder / "hosts"
        nobody = folder / "resolv.conf"
        nobody.write_text("nameserver 127.0.0.53\noptions timeout:1 attempts:1\n")
        self.back()
        enter = ("sh", "-c", _ENTER, "sh", str(self._hosts), str(nobody))
        self.within = (require("unshare"), "--mount", "--propagation", "private", *enter)

    def back(self) -> None:
        """The name is an address of this machine."""
        self._hosts.write_text(f"127.0.0.1 localhost {NAME}\n")

    def gone(self) -> None:
        """The name has no address."""
        self._hosts.write_text("127.0.0.1 localhost\n")
