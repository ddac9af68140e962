"""The machine that measures."""

from __future__ import annotations

import os
import platform
import re
import ssl
import subprocess
from pathlib import Path


def describe() -> dict[str, str]:
    """What a reader has to know to compare: processor, memory, system, versions, and how busy it is."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    meminfo = Path("/proc/meminfo").read_text()
    return {
        "processor": f"{os.cpu_count()} × {_field(cpuinfo, 'model name')} at {_field(cpuinfo, 'cpu MHz')} MHz",
        "SHA instructions": "yes" if " sha_ni" in cpuinfo else "no",
        "memory": f"{int(_field(meminfo, 'MemTotal').split()[0]) / 1e6:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_version()}, {ssl.OPENSSL_VERSION}",
        "openssl": _said("openssl", "version"),
        "commit": _said("git", "describe", "--always", "--dirty"),
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def filesystem(path: Path) -> str:
    """The type of the file system that holds a path: `tmpfs`, `ext4`."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    found = [(mount, kind) for mount, kind in mounts if path.resolve().is_relative_to(mount)]
    return max(found, key=lambda each: len(each[0]))[1]


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1] if match else "unknown"


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
