"""`python -m bench.far PORT SECONDS`: a relay to a port, with that round trip, until its input ends.

In a process of its own, as it takes most of a core where thousands of answers pass. Prints the port to ask.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from tests.support.relay import Relay


@contextlib.contextmanager
def relayed(port: int, delay: float) -> Iterator[int]:
    """The port of such a relay; it ends afterwards."""
    command = [sys.executable, "-m", "bench.far", str(port), str(delay)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate()


if __name__ == "__main__":
    with Relay(int(sys.argv[1]), delay=float(sys.argv[2])) as relay:
        print(relay.port, flush=True)
        sys.stdin.read()
