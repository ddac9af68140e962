"""`python -m bench.profile`: where the engine's time goes, thread by thread.

Pulls one generated blob from nginx on loopback to tmpfs in this process, twice: once untouched, for each thread's true
CPU time, and once under cProfile. Its figures are not the bench's: cProfile costs a multiple of what it measures where
functions are small. `--perf` records the first pull with `perf` as well, for what happens beneath Python.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import os
import pstats
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench import engine
from bench.origin import Origin
from bench.pull import inherited
from bench.scale import FULL, parse_size
from bench.workspace import Workspace, settle


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__.splitlines()[0])
    parser.add_argument("--tls", action="store_true", help="over TLS")
    parser.add_argument("--size", type=parse_size, default=512 << 20, help="of the blob (512MiB)")
    parser.add_argument("--lines", type=int, default=12, help="functions shown a thread (12)")
    parser.add_argument("--perf", action="store_true", help="record with perf as well")
    chosen = parser.parse_args()
    with Workspace(replace(FULL, size=chosen.size)) as work, Origin(work) as origin:
        origin.hold(work.big_model, "library/big")
        os.environ["SSL_CERT_FILE"] = str(work.authority.ca)
        mirror = f"https://127.0.0.1:{origin.tls_port}" if chosen.tls else f"http://127.0.0.1:{origin.port}"

        def pull() -> engine.Run:
            store = work.fresh("store")
            made = engine.puller("urllib3", store, mirror, inherited())
            try:
                return engine.pull(made)
            finally:
                made.close()
                settle(store)

        usages = _Usages()
        with _around_threads(usages.run), _perf(chosen.perf):
            run = pull()
        size = work.big_model.size / 1e9
        print(f"{run.wall:.2f} s, {run.cpu / size:.2f} CPU-s/GB, VmHWM {run.peak / 1e6:.0f} MB")
        usages.show()
        profiles = _Profiles()
        with _around_threads(profiles.run):
            pull()
        profiles.show(chosen.lines)


class _Usages:
    """CPU time of each thread, user and system."""

    def __init__(self) -> None:
        self._lines: list[tuple[float, str]] = []

    def run(self, body: Callable[[], None]) -> None:
        body()
        used = resource.getrusage(resource.RUSAGE_THREAD)
        name = threading.current_thread().name
        total = used.ru_utime + used.ru_stime
        self._lines.append((total, f"{name:24} user {used.ru_utime:5.2f} s   system {used.ru_stime:5.2f} s"))

    def show(self) -> None:
        for _, line in sorted(self._lines, reverse=True):
            print(f"  {line}")


class _Profiles:
    """A profile of each thread."""

    def __init__(self) -> None:
        self._profiles: dict[str, cProfile.Profile] = {}

    def run(self, body: Callable[[], None]) -> None:
        profile = self._profiles[threading.current_thread().name] = cProfile.Profile()
        profile.runcall(body)

    def show(self, lines: int) -> None:
        for name, profile in self._profiles.items():
            if profile.getstats():
                print(f"\n{name}")
                pstats.Stats(profile, stream=sys.stdout).strip_dirs().sort_stats("tottime").print_stats(lines)


@contextlib.contextmanager
def _around_threads(around: Callable[[Callable[[], None]], None]) -> Iterator[None]:
    """Every thread that starts meanwhile runs inside `around`."""
    original = threading.Thread.run

    def run(self: threading.Thread) -> None:
        around(lambda: original(self))

    threading.Thread.run = run  # type: ignore[method-assign]
    try:
        yield
    finally:
        threading.Thread.run = original  # type: ignore[method-assign]


@contextlib.contextmanager
def _perf(wanted: bool) -> Iterator[None]:
    """Records this process, and prints the symbols that took most."""
    if not wanted:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        recorder = subprocess.Popen(
            ["perf", "record", "-q", "-F", "499", "-o", str(data), "-p", str(os.getpid())], stderr=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            recorder.send_signal(signal.SIGINT)
            recorder.wait()
        report = ["perf", "report", "-i", str(data), "--stdio", "--sort", "comm,dso,symbol", "--percent-limit", "1"]
        print(subprocess.run(report, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
