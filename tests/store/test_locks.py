"""Locks between objects, threads and processes."""

from __future__ import annotations

import fcntl
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.api.test_fork import forked
from towline.errors import Cancelled
from towline.store.locks import FileLock, waiting_for

HOLDER = """
import sys
from pathlib import Path
from towline.store.locks import FileLock
assert FileLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_is_held_by_one_alone_until_it_is_given_back(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert one.acquire()
    assert not other.acquire()
    one.release()
    assert other.acquire()
    other.release()


def test_whoever_holds_it_may_take_it_again(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    assert lock.acquire()
    lock.release()
    assert FileLock(tmp_path / "lock").acquire()


def test_giving_back_what_is_not_held_harms_nobody(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert one.acquire()
    other.release()
    assert not other.acquire()
    one.release()
    one.release()


def test_nothing_is_left_of_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "locks" / "lock")
    assert lock.acquire()
    lock.release()
    assert not list((tmp_path / "locks").iterdir())


def test_a_file_that_is_left_of_a_lock_locks_nobody_out(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    lock.release()


def test_a_lock_whose_file_was_removed_is_no_lock_for_those_who_come_after(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert one.acquire()
    (tmp_path / "lock").unlink()
    assert other.acquire()
    other.release()
    one.release()


def test_a_lock_that_was_given_back_between_opening_its_file_and_locking_it_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    real = fcntl.flock

    def after_its_holder_left(file: int, operation: int) -> None:
        monkeypatch.undo()
        path.unlink()
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", after_its_holder_left)
    one, other = FileLock(path), FileLock(path)
    assert one.acquire()
    assert not other.acquire()
    one.release()


def test_a_lock_is_gone_with_the_process_that_held_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    lock = FileLock(path)
    assert not lock.acquire()
    process.kill()
    process.communicate()
    assert lock.acquire()
    lock.release()


def test_at_no_moment_do_two_of_many_threads_hold_it(tmp_path: Path) -> None:
    inside, most, guard = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(40):
            with waiting_for(tmp_path / "lock"):
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_waiting_for_a_lock_goes_on_however_long_its_holder_s_disk_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour by the clock between any two looks: also what a process sees that was stopped meanwhile."""
    hours = itertools.count(0.0, 3600.0)
    monkeypatch.setattr("towline.store.locks.time.monotonic", lambda: next(hours))
    lock, looks = FileLock(tmp_path / "lock"), itertools.count()
    assert lock.acquire()

    def check() -> None:
        if next(looks) == 5:
            lock.release()

    with waiting_for(tmp_path / "lock", check):
        assert not lock.acquire()


def test_waiting_for_a_lock_ends_when_nobody_waits_for_what_it_is_for(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()

    def check() -> None:
        raise Cancelled("nobody waits")

    with pytest.raises(Cancelled), waiting_for(tmp_path / "lock", check):
        pass
    lock.release()


def test_giving_back_a_lock_whose_file_was_removed_leaves_that_of_the_next_holder(tmp_path: Path) -> None:
    one, other, third = (FileLock(tmp_path / "lock") for _ in range(3))
    assert one.acquire()
    (tmp_path / "lock").unlink()
    assert other.acquire()
    one.release()
    assert not third.acquire()


def test_a_forked_child_has_no_part_in_any_though_the_file_of_one_is_gone(tmp_path: Path) -> None:
    locks = [FileLock(tmp_path / name) for name in ("one", "other")]
    for lock in locks:
        assert lock.acquire()
    files = [lock._file for lock in locks]
    for file in files:
        assert file is not None
        os.close(file)  # as while another thread is giving it back

    def look() -> None:
        assert [lock._file for lock in locks] == [None, None]

    assert forked(look) == 0
    for lock in locks:
        lock._file = None
