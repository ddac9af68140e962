"""Faults that other tests make; `make chaos` runs those and counts them."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.outcome import Outcome

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Elsewhere:
    """A fault, and the tests that make it, as pytest names them."""

    fault: str
    tests: tuple[str, ...]

    @property
    def how(self) -> str:
        """For the report."""
        return f"`{' '.join(self.tests)}`"


_DOWNLOAD = "tests/faults/test_download.py"
_CLIENT = "tests/registry/test_client.py"

ELSEWHERE = (
    Elsewhere(
        "reset, stall, truncated or compressed body, wrong `Content-Range`, 200 for 206, 429 and 503, 500s",
        (f"{_DOWNLOAD}::TestCured", f"{_DOWNLOAD}::TestFinal"),
    ),
    Elsewhere("a flipped bit; another endpoint is asked", (f"{_DOWNLOAD}::TestWrongBytes",)),
    Elsewhere(
        "signed address or token expired in the middle",
        ("tests/pull/test_pull.py", "-k", "addresses_and_tokens_that_expire_in_the_middle"),
    ),
    Elsewhere(
        "DNS gone, in the middle of a pull and before",
        ("tests/real/test_resolver.py", _CLIENT, "-k", "resolver or a_host_without_an_address_is_named"),
    ),
    Elsewhere(
        "registry restarted, or down for a moment",
        (_DOWNLOAD, "-k", "that_restarts or down_for_a_moment or goes_away"),
    ),
    Elsewhere(
        "TLS certificate wrong: unknown issuer, another name",
        (_CLIENT, "-k", "one_that_it_does_not_is_final or one_for_another_name_is_final"),
    ),
    Elsewhere(
        "the blob host of a redirect dies, refuses, expires or hangs",
        ("tests/registry/test_blob.py::TestBlobHost",),
    ),
    Elsewhere(
        "late: seconds before each first byte; a connection that never answers; a registry that is down for long",
        ("tests/pull/test_patience.py",),
    ),
    Elsewhere("dead addresses in front of a good one", ("tests/registry/test_addresses.py", "-k", "Race or Pulling")),
    Elsewhere("a disk that takes its time, or fails, to make a file last", ("tests/store/test_sync.py",)),
    Elsewhere("no thread, or no memory, to be had for a while", ("tests/faults/test_scarcity.py",)),
    Elsewhere("a crowd of half-open requests, and no more files", ("tests/server/test_crowd.py",)),
    Elsewhere("stopped for longer than the patience (SIGSTOP)", ("tests/faults/test_frozen.py",)),
    Elsewhere("answers without end", ("tests/registry/test_waiting.py",)),
    Elsewhere("a partial download that an Ollama left", ("tests/pull/test_adoption.py",)),
    Elsewhere("`kill -9` before each call that changes the store", ("tests/store/test_crash.py",)),
)

IMPOSSIBLE = (
    (
        "disk quota used up",
        "the kernel has no quota format for ext4, tmpfs or XFS (CONFIG_QFMT_V1, CONFIG_QFMT_V2, CONFIG_TMPFS_QUOTA and "
        "CONFIG_XFS_QUOTA are off): ext4 and tmpfs with a quota were tried and do not mount. It has btrfs, whose own "
        "quota was not tried: `mkfs.btrfs` is not installed. An EDQUOT that a call is made to raise: "
        "`tests/store/test_publication.py` (`test_a_manifest_that_cannot_be_written_leaves_the_old_one`)",
    ),
    (
        "the power really going",
        "a disk that lies about its cache, or tears below the file system, cannot be had here; the two power cuts "
        "above are a model at the file layer and ext4's own shutdown",
    ),
    (
        "packet loss and delay in the kernel",
        "no `tc netem` in this kernel; links are shaped by `tests/support/relay.py`",
    ),
)
"""Faults that this machine cannot make, and why."""


def run(group: Elsewhere) -> Outcome:
    """Raises AssertionError where one of the tests fails, or none is there."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *group.tests]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0, done.stdout[-2000:]
    assert passed, done.stdout[-2000:]
    return Outcome(int(passed[1]), "the tests pass")
