"""A moment without threads, memory or files is a sentence; after it everything is well."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.support import Served, keep, until
from tests.support.daemon import Daemon
from tests.support.events import check_sentence
from tests.support.models import generate, tiny
from towline.server import shortage

CGROUP = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def no_more_threads(pid: int) -> Iterator[None]:
    """The process may start none."""
    group = CGROUP / f"towline-{pid}" if (CGROUP / "cgroup.procs").exists() else CGROUP / "pids" / f"towline-{pid}"
    home = group.parent / "cgroup.procs"
    try:
        group.mkdir()
        (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text("1")
    except OSError as error:
        with contextlib.suppress(OSError):
            home.write_text(str(pid))
            group.rmdir()
        pytest.skip(f"no cgroup of processes here: {error}")
    try:
        yield
    finally:
        home.write_text(str(pid))
        group.rmdir()


def ask_everything(daemon: Daemon) -> list[int]:
    """Reads the list, a manifest and a blob at once often; the statuses. Every refusal has its sentence."""
    digest = tiny().weights.digest
    statuses = []
    for _ in range(5):
        for path in ("/api/tags", "/v2/library/tiny/manifests/latest", f"/v2/library/tiny/blobs/{digest}"):
            answer = daemon.request("GET", path)
            statuses.append(answer.status)
            if answer.status != 200:
                problem = answer.json
                check_sentence(problem["error"] if "error" in problem else problem["errors"][0]["message"])
    return statuses


@pytest.fixture
def stocked(store_path: Path, daemon: Daemon) -> Daemon:
    """A daemon with a model."""
    keep(store_path, "tiny", tiny())
    return daemon


def test_requests_need_no_thread_that_is_not_there(stocked: Daemon) -> None:
    with no_more_threads(stocked.pid):
        assert ask_everything(stocked) == [200] * 15
    assert ask_everything(stocked) == [200] * 15


def test_a_moment_without_files_is_a_sentence_and_passes(stocked: Daemon) -> None:
    ask_everything(stocked)
    before = stocked.usage().descriptors
    limits = resource.prlimit(stocked.pid, resource.RLIMIT_NOFILE)
    # One for the connection, none for what it asks for.
    resource.prlimit(stocked.pid, resource.RLIMIT_NOFILE, (len_of_files(stocked.pid) + 1, limits[1]))
    assert set(ask_everything(stocked)) <= {200, 503}
    resource.prlimit(stocked.pid, resource.RLIMIT_NOFILE, limits)
    assert ask_everything(stocked) == [200] * 15
    until(lambda: stocked.usage().descriptors <= before)
    assert stocked.output.count("out of files") <= 1
    assert "Traceback" not in stocked.output


def len_of_files(pid: int) -> int:
    """The number that the next file gets, where none below is free."""
    return max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 1


def test_a_moment_without_memory_is_a_sentence_and_passes(daemon: Daemon, store_path: Path) -> None:
    for number in range(300):
        keep(store_path, f"tiny{number}", generate(2000, seed=number))
    size = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(daemon.pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    for _ in range(5):
        with contextlib.suppress(OSError):
            assert daemon.request("GET", "/api/tags").status in (200, 503)
    resource.prlimit(daemon.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert len(daemon.request("GET", "/api/tags").json["models"]) == 300


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("can't start new thread"), "threads"),
        (OSError(24, "Too many open files"), "files"),
        (OSError(12, "Cannot allocate memory"), "memory"),
    ],
)
def test_a_handler_that_meets_one_says_so(
    served: Served, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str], error: Exception, told: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(shortage, "_told", {})
    with monkeypatch.context() as moment:
        moment.setattr(served.puller.store, "list", fail)
        for _ in range(3):
            answer = served.get("/api/tags")
            assert answer.status == 503
            assert told in answer.error
    assert served.get("/api/tags").status == 200
    log = logged()
    assert log.count(f"out of {told}") == 1
    assert "Traceback" not in log
