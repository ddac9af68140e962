"""The threads that wait for disks: each task is done once, whatever happens to them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support.pulling import eventually
from towline.transfer.syncing import MOST_THREADS, Lane, Syncing


@pytest.fixture
def syncing() -> Iterator[Syncing]:
    syncing = Syncing()
    yield syncing
    syncing.close(10)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


class Slow:
    """Tasks that wait for the test."""

    def __init__(self, gate: threading.Event) -> None:
        self.begun = 0
        self.done = 0
        self._gate = gate
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.begun += 1
        assert self._gate.wait(30)
        with self._lock:
            self.done += 1


def noting(notes: list[object], note: object) -> Callable[[], None]:
    return lambda: notes.append(note)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("towline-sync")]


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def fail() -> None:
    raise ValueError("a fault")


class TestThreads:
    def test_none_is_there_before_there_is_something_to_do(self, syncing: Syncing) -> None:
        assert not threads()
        syncing.soon(lambda: None)
        assert len(threads()) == 1

    def test_a_slow_task_holds_up_no_other(self, syncing: Syncing, gate: threading.Event) -> None:
        slow, other = Slow(gate), threading.Event()
        for _ in range(MOST_THREADS - 1):
            syncing.soon(slow)
        syncing.soon(other.set)
        assert other.wait(30)
        assert not slow.done

    def test_there_are_never_more_than_the_most_and_all_tasks_are_done(
        self, syncing: Syncing, gate: threading.Event
    ) -> None:
        slow = Slow(gate)
        for _ in range(3 * MOST_THREADS):
            syncing.soon(slow)
        eventually(lambda: slow.begun == MOST_THREADS, "all threads to wait")
        assert len(threads()) == MOST_THREADS
        gate.set()
        eventually(lambda: slow.done == 3 * MOST_THREADS, "all tasks to be done")

    def test_a_task_that_fails_is_logged_and_the_next_is_done(
        self, syncing: Syncing, caplog: pytest.LogCaptureFixture
    ) -> None:
        done = threading.Event()
        with caplog.at_level(logging.ERROR, "towline"):
            for _ in range(20):
                syncing.soon(fail)
                syncing.soon(done.set)
            assert done.wait(30)
            syncing.close(10)
        assert len(caplog.records) == 20

    def test_where_no_thread_can_be_started_the_caller_does_it(
        self, syncing: Syncing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done: list[object] = []
        monkeypatch.setattr(threading.Thread, "start", refuse)
        syncing.soon(lambda: done.append(threading.current_thread()))
        assert done == [threading.current_thread()]
        monkeypatch.undo()
        syncing.soon(lambda: done.append(threading.current_thread()))
        eventually(lambda: len(done) == 2, "the second task")
        assert done[1] is not threading.current_thread()

    def test_where_no_further_thread_can_be_started_those_that_are_there_do_it(
        self, syncing: Syncing, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow = Slow(gate)
        syncing.soon(slow)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        syncing.soon(slow)
        assert len(threads()) == 1
        gate.set()
        eventually(lambda: slow.done == 2, "both tasks to be done")


class TestClosing:
    def test_all_that_was_given_is_done_first(self, syncing: Syncing, gate: threading.Event) -> None:
        slow = Slow(gate)
        for _ in range(3 * MOST_THREADS):
            syncing.soon(slow)
        gate.set()
        syncing.close(30)
        assert slow.done == 3 * MOST_THREADS
        assert not threads()

    def test_a_disk_that_does_not_answer_is_not_waited_for(self, syncing: Syncing, gate: threading.Event) -> None:
        slow = Slow(gate)
        syncing.soon(slow)
        syncing.close(0.01)
        assert not slow.done

    def test_what_comes_later_is_done_by_who_gives_it(self, syncing: Syncing) -> None:
        syncing.close(10)
        syncing.close(10)
        done: list[object] = []
        syncing.soon(lambda: done.append(threading.current_thread()))
        assert done == [threading.current_thread()]


class TestLanes:
    def test_tasks_of_a_lane_are_done_in_their_order_one_at_a_time(
        self, syncing: Syncing, gate: threading.Event
    ) -> None:
        lane, slow, notes = Lane(syncing), Slow(gate), list[object]()
        lane.soon(slow)
        for number in range(100):
            lane.soon(noting(notes, number))
        assert not notes
        assert not lane.idle
        gate.set()
        eventually(lambda: lane.idle, "all to be done")
        assert notes == list(range(100))

    def test_a_lane_takes_one_thread_however_much_it_has_to_do(self, syncing: Syncing, gate: threading.Event) -> None:
        slow, other = Slow(gate), threading.Event()
        busy = [Lane(syncing) for _ in range(MOST_THREADS - 1)]
        for lane in busy * 5:
            lane.soon(slow)
        Lane(syncing).soon(other.set)
        assert other.wait(30)
        gate.set()
        eventually(lambda: slow.done == 5 * len(busy), "all to be done")

    def test_a_task_that_fails_does_not_stop_its_lane(self, syncing: Syncing) -> None:
        lane, notes = Lane(syncing), list[object]()
        lane.soon(fail)
        lane.soon(noting(notes, "next"))
        eventually(lambda: notes == ["next"], "the next task")

    def test_a_task_may_give_its_lane_another(self, syncing: Syncing) -> None:
        lane, notes = Lane(syncing), list[object]()
        lane.soon(lambda: lane.soon(noting(notes, "later")))
        eventually(lambda: notes == ["later"], "the later task")
