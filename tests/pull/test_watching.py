"""What each who watches a pull is told, and what that costs, over a course that the test runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import pytest

from towline.errors import TransferError
from towline.model.digest import Digest
from towline.model.events import WAITING, Event, Progress, Status, decode, encode
from towline.model.manifest import TENSOR_LAYER, Descriptor
from towline.tracks import FRESH, LOOK, Track, Tracks
from towline.watching import HEARTBEAT, Course, Watcher

REASON = f"{WAITING}models.example refuses connections; trying again"


class Bytes:
    """A transfer's counter, and how often it was read."""

    reads = 0

    def __init__(self, found: int = 0) -> None:
        self.found = found
        self.now = found

    @property
    def completed(self) -> int:
        Bytes.reads += 1
        return self.now


@pytest.fixture(autouse=True)
def no_reads() -> None:
    Bytes.reads = 0


def tracks(counters: Sequence[Bytes], *, media_type: str = "x", size: int = 100) -> Tracks:
    return Tracks(
        [
            Track(Descriptor(media_type, Digest.of(b"%d" % number), size), counter, counter.found)
            for number, counter in enumerate(counters)
        ]
    )


def watched(course: Course, *, interleave: bool = False) -> Watcher:
    watcher = course.watch()
    assert watcher
    watcher.interleave = interleave
    return watcher


def everything(watcher: Watcher) -> list[Event]:
    """Polls until a poll returns nothing."""
    found: list[Event] = []
    while news := watcher.poll():
        found += news
    return found


def in_turns(watchers: Sequence[Watcher]) -> list[Event]:
    """Polls each of them again and again, as an event loop does, until no poll returns anything."""
    found: list[Event] = []
    while news := [event for watcher in watchers for event in watcher.poll()]:
        found += news
    return found


@pytest.fixture
def course() -> Course:
    return Course(deserted=lambda: None)


def test_one_who_fails_when_he_is_told_keeps_no_other_from_hearing(course: Course) -> None:
    heard: list[int] = []

    def tell(number: int) -> None:
        heard.append(number)
        assert len(heard) <= 20 or number % 2, "told of the step"

    for number in range(20):
        watched(course).on_change(partial(tell, number))
    course.reach("verifying sha256 digest")
    assert sorted(heard[20:]) == list(range(20))


class TestSignsOfLife:
    """`now` is what the clock says: nobody waits."""

    def after(self, watcher: Watcher, seconds: float) -> list[Event]:
        return watcher.poll(time.monotonic() + seconds)

    def test_before_the_manifest(self, course: Course) -> None:
        watcher = watched(course)
        assert watcher.poll() == [Status("pulling manifest")]
        assert watcher.poll() == []
        assert self.after(watcher, HEARTBEAT) == [Status("pulling manifest")]

    @pytest.mark.parametrize("interleave", [False, True])
    def test_while_no_layer_moves(self, course: Course, interleave: bool) -> None:
        watcher = watched(course, interleave=interleave)
        course.commit(tracks([Bytes(100), Bytes(7), Bytes()]))
        everything(watcher)
        assert self.after(watcher, HEARTBEAT) == [Progress(Digest.of(b"1"), 100, 7)]

    def test_of_a_model_of_tensors(self, course: Course) -> None:
        watcher = watched(course)
        course.commit(tracks([Bytes(100), Bytes(7)], media_type=TENSOR_LAYER))
        told = everything(watcher)
        assert self.after(watcher, HEARTBEAT) == told[1:]

    @pytest.mark.parametrize("step", ["verifying sha256 digest", "writing manifest", "removing unused layers"])
    @pytest.mark.parametrize("interleave", [False, True])
    def test_in_every_later_step(self, course: Course, step: str, interleave: bool) -> None:
        watcher = watched(course, interleave=interleave)
        course.commit(tracks([Bytes(100)]))
        course.reach(step)
        assert everything(watcher)[-1] == Status(step)
        assert self.after(watcher, HEARTBEAT) == [Status(step)]

    def test_the_next_look_is_never_later_than_the_next_sign_of_life(self, course: Course) -> None:
        crowd = [watched(course) for _ in range(1000)]
        crowd[0].poll()
        assert crowd[0].sample <= HEARTBEAT < 0.9


class TestWaiting:
    """A pull that goes on trying says why nothing moves."""

    def test_before_the_manifest_it_stands_behind_the_status(self, course: Course) -> None:
        watcher = watched(course)
        watcher.poll()
        course.waiting = REASON
        assert watcher.poll() == [Status(f"pulling manifest: {REASON}")]

    @pytest.mark.parametrize("interleave", [False, True])
    def test_while_layers_come_it_stands_behind_the_layer_and_changes_no_number(
        self, course: Course, interleave: bool
    ) -> None:
        watcher = watched(course, interleave=interleave)
        course.commit(tracks([Bytes(7), Bytes()]))
        before = everything(watcher)
        course.waiting = REASON
        (event,) = watcher.poll()
        first = next(event for event in before if isinstance(event, Progress))
        assert event.wire() == first.wire() | {"status": f"{first.status}: {REASON}"}

    def test_it_wakes_who_waits(self, course: Course) -> None:
        watcher = watched(course)
        watcher.wait(0)
        course.waiting = REASON
        assert watcher.wait(0)

    def test_it_is_told_once_and_then_as_a_sign_of_life(self, course: Course) -> None:
        watcher = watched(course)
        course.waiting = REASON
        assert everything(watcher)[-1] == Status(f"pulling manifest: {REASON}")
        assert watcher.poll(time.monotonic() + HEARTBEAT) == [Status(f"pulling manifest: {REASON}")]

    def test_its_end_is_told_at_once(self, course: Course) -> None:
        watcher = watched(course)
        course.waiting = REASON
        everything(watcher)
        course.waiting = ""
        assert watcher.poll() == [Status("pulling manifest")]

    def test_it_is_read_from_the_line_as_it_was(self) -> None:
        event = Progress(Digest.of(b"x"), 10, 3, REASON)
        assert decode(encode(event)) == event


def first_and_last(events: Sequence[Event]) -> dict[str, tuple[int, int]]:
    """What was told of each digest, which never falls."""
    told: dict[str, tuple[int, int]] = {}
    for event in events:
        if isinstance(event, Progress):
            first, last = told.get(str(event.digest), (event.completed, 0))
            assert event.completed >= last
            told[str(event.digest)] = (first, event.completed)
    return told


def digest(number: int) -> str:
    return str(Digest.of(b"%d" % number))


class TestJoining:
    """Who comes in the middle is told first what is on disk by then, and not what was when the pull began."""

    @pytest.fixture
    def counters(self, course: Course) -> list[Bytes]:
        """Of a pull that somebody watches: a layer that is whole by now, two that move, one that nothing came of."""
        counters = [Bytes(), Bytes(7), Bytes(5), Bytes()]
        first = watched(course, interleave=True)
        course.commit(tracks(counters))
        counters[1].now = 20
        everything(first)
        counters[0].now, counters[1].now, counters[2].now = 100, 45, 30
        return counters

    @pytest.mark.parametrize("before", [[], [False], [True], [False, True]], ids=str)
    def test_side_by_side(self, course: Course, counters: list[Bytes], before: list[bool]) -> None:
        in_turns([watched(course, interleave=interleave) for interleave in before])
        time.sleep(FRESH)
        counters[2].now = 35
        late = watched(course, interleave=True)
        now = {digest(0): (100, 100), digest(1): (45, 45), digest(2): (35, 35), digest(3): (0, 0)}
        assert first_and_last(everything(late)) == now

    @pytest.mark.parametrize("before", [[], [False], [True], [False, True]], ids=str)
    def test_one_after_another(self, course: Course, counters: list[Bytes], before: list[bool]) -> None:
        in_turns([watched(course, interleave=interleave) for interleave in before])
        counters[1].now = 50
        late = watched(course)
        told = everything(late)
        assert first_and_last(told) == {digest(0): (100, 100), digest(1): (50, 50)}
        counters[1].now, counters[2].now = 100, 40
        told += everything(late)
        assert first_and_last(told) == {digest(0): (100, 100), digest(1): (50, 100), digest(2): (40, 40)}

    @pytest.mark.parametrize("layers", [3, 3 * LOOK])
    def test_a_model_of_tensors(self, course: Course, layers: int) -> None:
        counters = [Bytes(1) for _ in range(layers)]
        course.commit(tracks(counters, media_type=TENSOR_LAYER))
        for counter in counters:
            counter.now = 50
        told = everything(watched(course))
        assert first_and_last(told) == {"sha256:model": (50 * layers, 50 * layers)}

    def test_by_whom_it_moves_meanwhile_it_never_falls(self, course: Course) -> None:
        counters = [Bytes() for _ in range(2000)]
        first, late = watched(course, interleave=True), None
        course.commit(tracks(counters))
        told: list[Event] = []
        for step in range(1, 101):
            for counter in counters[step::7]:
                counter.now = step
            first.poll()
            late = late or watched(course, interleave=True)
            told += late.poll()
        assert late
        course.finish(None)
        told += everything(late)
        last = first_and_last(told)
        assert last == {digest(n): (last[digest(n)][0], counter.now) for n, counter in enumerate(counters)}

    @pytest.mark.parametrize("interleave", [False, True])
    def test_of_thousands_of_layers_it_is_told_in_batches_without_a_pause(
        self, course: Course, interleave: bool
    ) -> None:
        counters = [Bytes() for _ in range(2000)]
        course.commit(tracks(counters))
        for counter in counters:
            counter.now = 100
        late = watched(course, interleave=interleave)
        told = late.poll()
        assert len(told) >= 512
        assert late.sample == 0
        told += everything(late)
        assert len(told) == 1 + 2000


class TestTheEnd:
    @pytest.mark.parametrize("interleave", [False, True])
    @pytest.mark.parametrize("media_type", ["x", TENSOR_LAYER])
    def test_no_step_comes_before_every_layer_was_told_whole(
        self, course: Course, interleave: bool, media_type: str
    ) -> None:
        counters = [Bytes() for _ in range(3 * LOOK)]
        watcher = watched(course, interleave=interleave)
        course.commit(tracks(counters, media_type=media_type))
        watcher.poll()
        for counter in counters:
            counter.now = 100
        course.reach("verifying sha256 digest")
        course.reach("success")
        course.finish(None)
        told = everything(watcher)
        progress = [event for event in told if isinstance(event, Progress)]
        assert told[-2:] == [Status("verifying sha256 digest"), Status("success")]
        assert all(isinstance(event, Progress) for event in told[:-2] if event != Status("pulling manifest"))
        last = {event.digest: event for event in progress}
        assert all(event.completed == event.total for event in last.values())
        assert sum(event.total for event in last.values()) == 100 * len(counters)

    @pytest.mark.parametrize("interleave", [False, True])
    def test_two_who_see_every_layer_are_both_told_of_each(self, course: Course, interleave: bool) -> None:
        counters = [Bytes() for _ in range(10)]
        both = [watched(course, interleave=interleave) for _ in range(2)]
        course.commit(tracks(counters))
        for watcher in both:
            watcher.poll()
        for counter in counters:
            counter.now = 100
        course.reach("success")
        for watcher in both:
            whole = [event for event in everything(watcher) if isinstance(event, Progress) and event.completed == 100]
            assert len(whole) == 10

    @pytest.mark.parametrize("interleave", [False, True])
    def test_a_failure_comes_to_its_end(self, course: Course, interleave: bool) -> None:
        watcher = watched(course, interleave=interleave)
        course.commit(tracks([Bytes() for _ in range(3 * LOOK)]))
        course.finish(TransferError("gone"))
        with pytest.raises(TransferError):
            for _ in watcher.events():
                pass


class TestCost:
    """Counted, not timed: `reads` are looks at one blob, a batch is what one turn of the event loop deals with."""

    LAYERS = 38_000

    def test_a_poll_looks_at_one_blob_however_many_there_are(self, course: Course) -> None:
        watcher = watched(course)
        course.commit(tracks([Bytes() for _ in range(self.LAYERS)]))
        everything(watcher)
        Bytes.reads = 0
        for _ in range(10):
            watcher.poll()
        assert Bytes.reads == 10

    @pytest.mark.parametrize("media_type", ["x", TENSOR_LAYER])
    def test_what_moves_is_looked_for_once_for_all_who_see_every_layer(self, course: Course, media_type: str) -> None:
        watchers = [watched(course, interleave=media_type == "x") for _ in range(50)]
        course.commit(tracks([Bytes() for _ in range(2 * LOOK)], media_type=media_type))
        in_turns(watchers)
        Bytes.reads = 0
        started = time.monotonic()
        for watcher in watchers:
            watcher.poll()
        looks = 1 + (time.monotonic() - started) // 0.05  # one holds for that long
        assert Bytes.reads <= looks * LOOK

    @pytest.mark.parametrize("interleave", [False, True])
    def test_a_poll_returns_a_bounded_batch_and_asks_for_the_next_at_once(
        self, course: Course, interleave: bool
    ) -> None:
        watcher = watched(course, interleave=interleave)
        course.commit(tracks([Bytes(100) for _ in range(self.LAYERS)]))
        course.finish(None)
        sizes: list[int] = []
        while news := watcher.poll():
            assert watcher.sample == 0 or len(sizes) == self.LAYERS // 512
            sizes.append(len(news))
        assert sum(sizes) == 1 + self.LAYERS
        assert max(sizes) <= 513

    @pytest.mark.parametrize("interleave", [False, True])
    def test_what_all_are_told_is_encoded_once(self, course: Course, interleave: bool) -> None:
        counters = [Bytes() for _ in range(1000)]
        watchers = [watched(course, interleave=interleave) for _ in range(50)]
        course.commit(tracks(counters))
        for counter in counters:
            counter.now = 100
        course.reach("success")
        lines = [encode(event) for event in in_turns(watchers)]
        assert len(lines) == 50 * (2 * 1000 + 2)
        assert len({id(line) for line in lines if b"digest" in line}) == 2 * 1000

    @pytest.mark.parametrize("interleave", [False, True])
    def test_what_all_who_join_are_told_is_encoded_once(self, course: Course, interleave: bool) -> None:
        counters = [Bytes() for _ in range(1000)]
        course.commit(tracks(counters))
        for counter in counters[:500]:
            counter.now = 100
        watchers = [watched(course, interleave=interleave) for _ in range(50)]
        lines = [encode(event) for event in in_turns(watchers)]
        assert len({id(line) for line in lines if b"digest" in line}) == len(lines) / 50 - 1
