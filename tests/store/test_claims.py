"""Locks where the file system has none: a file that its holder keeps changing."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.api.test_fork import forked
from tests.pull.process import PullProcess
from tests.store.test_locks import HOLDER
from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.lacking import lacking_disk
from tests.support.models import generate
from tests.support.pulling import Pulling, eventually
from tests.support.registry import FaultRegistry
from towline.errors import Starved
from towline.store import claims
from towline.store.locks import FileLock, waiting_for
from towline.store.store import Store
from towline.transfer.journal import journaled_bytes

MIB = 1 << 20
ELSEWHERE = "another-start/pid:[1] 1 1 {} 000000000000\n"
"""What a process on another machine writes."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """On a file system without locks."""
    with lacking_disk(tmp_path / "disk", flock=errno.ENOSYS) as disk:
        yield disk.path


def test_it_is_held_by_one_alone_until_it_is_given_back(folder: Path) -> None:
    one, other = FileLock(folder / "lock"), FileLock(folder / "lock")
    assert one.acquire()
    assert one.acquire()
    assert not other.acquire()
    one.release()
    assert other.acquire()
    other.release()
    assert not list(folder.iterdir())
    assert "towline-claims" not in [thread.name for thread in threading.enumerate()]


def test_it_is_gone_with_the_process_that_held_it(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    lock = FileLock(folder / "lock")
    assert not lock.acquire()
    process.kill()
    process.communicate()
    assert lock.acquire()
    lock.release()


def test_what_another_machine_keeps_changing_is_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "SILENT", 0.0)
    lock = FileLock(folder / "lock")
    for beat in range(3):
        (folder / "lock").write_text(ELSEWHERE.format(beat))
        assert not lock.acquire()


def test_what_it_does_not_change_any_more_is_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "lock").write_text(ELSEWHERE.format("ticket"))
    lock = FileLock(folder / "lock")
    assert not lock.acquire()
    assert not lock.acquire()
    monkeypatch.setattr(claims, "SILENT", 0.0)
    assert lock.acquire()
    assert not FileLock(folder / "lock").acquire()
    lock.release()


def test_of_those_who_find_it_free_at_once_one_has_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "SILENT", 0.0)
    (folder / "lock").write_text(ELSEWHERE.format("ticket"))
    locks = [FileLock(folder / "lock") for _ in range(6)]
    assert not locks[0].acquire()
    together = threading.Barrier(len(locks))
    got: list[bool] = []

    def take(lock: FileLock) -> None:
        together.wait()
        got.append(lock.acquire())

    threads = [threading.Thread(target=take, args=[lock]) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(got) == 1
    for lock in locks:
        lock.release()
    assert not list(folder.iterdir())


def test_whoever_lost_it_is_told_when_it_gives_a_sign(folder: Path) -> None:
    lock = FileLock(folder / "lock")
    assert lock.acquire()
    lock.touch()
    (folder / "other").write_text(ELSEWHERE.format("ticket"))
    (folder / "other").rename(folder / "lock")
    with pytest.raises(FileNotFoundError):
        lock.touch()
    lock.release()
    assert (folder / "lock").read_text() == ELSEWHERE.format("ticket")


def test_one_for_whom_there_are_locks_believes_a_claim_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").write_text(ELSEWHERE.format("ticket"))
    lock = FileLock(tmp_path / "lock")
    assert not lock.acquire()
    monkeypatch.setattr(claims, "SILENT", 0.0)
    assert lock.acquire()
    lock.release()
    assert not list(tmp_path.iterdir())


def test_at_no_moment_do_two_of_many_threads_hold_it(folder: Path) -> None:
    inside, most, guard = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(10):
            with waiting_for(folder / "lock"):
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_the_holder_changes_it_for_as_long_as_it_holds_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.01)
    lock = FileLock(folder / "lock")
    assert lock.acquire()
    first = (folder / "lock").read_text()
    eventually(lambda: (folder / "lock").read_text() != first, "a sign")
    lock.release()


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_without_a_thread_to_keep_it_none_is_had_and_the_reason_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FileLock(folder / "lock")
    with monkeypatch.context() as moment:
        moment.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Starved, match="no thread"):
            lock.acquire()
        assert not list(folder.iterdir())
    assert lock.acquire()
    lock.release()


def test_what_is_cleared_away_waits_for_another_time_where_no_thread_can_be_had(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(folder).prepare()
    for left in ("pins/ticket", "staging/" + "5" * 64):
        (folder / "towline" / left).mkdir()
    with monkeypatch.context() as moment:
        moment.setattr(threading.Thread, "start", refuse)
        Store(folder).prepare()
    assert (folder / "towline/pins/ticket").exists()
    Store(folder).prepare()
    assert not (folder / "towline/pins/ticket").exists()


def test_one_that_was_refused_and_is_then_had_by_a_true_lock_is_signed_for(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(ELSEWHERE.format("ticket"))
    lock = FileLock(tmp_path / "lock")
    assert not lock.acquire()
    (tmp_path / "lock").unlink()
    assert lock.acquire()
    os.utime(tmp_path / "lock", (1, 1))
    lock.touch()
    assert lock.touched() > 1
    lock.release()


@contextlib.contextmanager
def held_elsewhere(*locks: AbstractContextManager[object]) -> Iterator[None]:
    """Another thread holds these meanwhile."""
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            taken.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert taken.wait(10)
        yield
    finally:
        done.set()
        thread.join()


def test_a_forked_child_holds_and_keeps_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.01)
    (folder / "left").write_text(ELSEWHERE.format("ticket"))
    mine = FileLock(folder / "mine")
    assert mine.acquire()

    def work() -> None:
        assert not FileLock(folder / "mine").acquire()
        assert not FileLock(folder / "left").acquire()
        with waiting_for(folder / "its"):
            first = (folder / "its").read_text()
            eventually(lambda: (folder / "its").read_text() != first, "a sign")

    with held_elsewhere(claims._heart._lock, claims._seen_lock):
        assert forked(work) == 0
    assert not FileLock(folder / "mine").acquire()
    mine.release()


def test_a_process_follows_another_and_goes_on_after_it_was_killed(registry: FaultRegistry, folder: Path) -> None:
    model = generate(6 * MIB, seed=97)
    name = registry.add(model, "library/model")
    registry.fail(blob(model.weights), Stall(after=3 * MIB), times=1)
    with Pulling(folder, connections_per_blob=1) as pulling:
        journal, size, digest = str(pulling.staged(model.weights) / "journal"), model.weights.size, model.weights.digest
        with PullProcess(folder, name) as other:
            eventually(lambda: journaled_bytes(journal, size, digest) >= 3 * MIB, "three blocks")
            following = pulling.start(name).until_completed(model.weights, 3 * MIB)
            other.kill()
            assert following.finish(model).first(model.weights) >= 3 * MIB
        pulling.check_stored(name, model)
    Store(folder).prepare()
    assert not os.listdir(folder / "towline/locks")
