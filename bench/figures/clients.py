"""The same engine over urllib3 and over pycurl: what the HTTP client costs, and whether another one would pay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from bench.command import output
from bench.engine import Run
from bench.origin import Origin
from bench.rounds import interleave, ratio
from bench.row import Row
from bench.workspace import DISK, Workspace, settle

PYCURL = "pycurl==7.49.0"
FOLDER = DISK / ".pycurl"  # hidden from mypy, which would check it


def measure(work: Workspace) -> Sequence[Row]:
    """Without the daemon: the puller in a process of its own, a fresh one for each pull."""
    reason = installed()
    if reason:
        return [Row.absent("urllib3 over pycurl", "×", reason)]
    with Origin(work) as origin:
        origin.hold(work.big_model, "library/big")
        contestants = {
            f"{client}, {way}": partial(_run, work, origin, client, way)
            for way in ("plain", "TLS")
            for client in ("urllib3", "pycurl")
        }
        results = interleave(contestants, work.scale.rounds)
    size = work.big_model.size / 1e9
    rows = []
    for name, runs in results.items():
        rows += [
            Row.of(f"{name}: wall", "s", [run.wall for run in runs]),
            Row.of(f"{name}: CPU", "CPU-s/GB", [run.cpu / size for run in runs]),
        ]
    for way in ("plain", "TLS"):
        walls = [[run.wall for run in results[f"{client}, {way}"]] for client in ("urllib3", "pycurl")]
        rows.append(Row(f"urllib3 over pycurl, {way}, wall", "×", *ratio(*walls), note="pycurl pays above 1.15"))
    rows[-1] = replace(rows[-1], note=f"{rows[-1].note}; it is {_version()}")
    return rows


def installed() -> str | None:
    """Installs pycurl under bench/out, apart from everything else; why it cannot be used, or None."""
    if not FOLDER.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--target", str(FOLDER)]
        done = subprocess.run([*command, PYCURL], capture_output=True, text=True)
        if done.returncode:
            return (
                f"{PYCURL} cannot be installed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1][:150]}"
            )
    return None


def environment() -> dict[str, str]:
    """In which a Python process finds pycurl."""
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(FOLDER)])}


def _version() -> str:
    """What pycurl brings along: its OpenSSL is not the one of Python."""
    words = "import pycurl; print(*pycurl.version.split()[:3])"
    return output(["env", f"PYTHONPATH={FOLDER}", sys.executable, "-c", words]).strip()


def _run(work: Workspace, origin: Origin, client: str, way: str) -> Run:
    store = work.fresh("store")
    mirror = f"https://127.0.0.1:{origin.tls_port}" if way == "TLS" else f"http://127.0.0.1:{origin.port}"
    variables = {**environment(), "SSL_CERT_FILE": str(work.authority.ca)}
    command = ["env", *(f"{name}={variables[name]}" for name in ("PYTHONPATH", "SSL_CERT_FILE"))]
    said = output([*command, sys.executable, "-m", "bench.engine", client, str(store), mirror])
    settle(store)
    return msgspec.json.decode(said, type=Run)
