"""A network of its own: the addresses that everybody uses, such as a server's default one, are free there."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from tests.support.components import lacking, require


def alone(script: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a shell's script where nothing but a loopback is, and nobody else. What it starts, it ends."""
    entered = subprocess.run([require("unshare"), "--net", "true"], capture_output=True, text=True)
    if entered.returncode != 0:
        lacking(f"it takes root to have a network of its own: {entered.stderr.strip()}")
    ready = f"{require('ip')} link set lo up\n{script}"
    return subprocess.run(
        ["unshare", "--net", "sh", "-euc", ready], env=dict(environment), capture_output=True, text=True, timeout=60
    )
