"""How a pull looks: bars, lines, events."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
from rich.console import Console

from towline.cli.render import Bars, Lines, Wire, best_view, outcome
from towline.cli.tally import Tally
from towline.model.digest import Digest
from towline.model.events import Event, Progress, Status

GB = 10**9
DIGESTS = [Digest.of(str(number).encode()) for number in range(5000)]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_bars_draw_seldom_and_end_with_what_came() -> None:
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, width=80, height=24, force_terminal=True, color_system=None)
    with Bars("llama3.2", console, clock) as bars:
        bars.show(Status("pulling manifest"))
        for step in range(1001):
            clock.now += 0.001
            bars.show(Progress(DIGESTS[0], 1000, step))
        bars.show(Status("success"))
    text = file.getvalue()
    assert text.count(DIGESTS[0].short) < 20
    assert text.endswith("\x1b[?25hpulled llama3.2: 1 KB in 1.0 s, 999 B/s\n")  # with the cursor back


def test_bars_stay_where_they_stood_when_the_pull_fails() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, height=24, force_terminal=True, color_system=None)
    with contextlib.suppress(ValueError), Bars("llama3.2", console) as bars:
        bars.show(Progress(DIGESTS[0], 1000, 500))
        raise ValueError("the pull failed")
    assert "50 %" in file.getvalue()
    assert "pulled" not in file.getvalue()


def lines(events: list[Event], capsys: pytest.CaptureFixture[str], seconds: float = 0.1) -> list[str]:
    """What `Lines` prints for these events."""
    clock = Clock()
    view = Lines("llama3.2", clock)
    for event in events:
        view.show(event)
        clock.now += seconds
    return capsys.readouterr().out.splitlines()


def test_lines_come_at_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = [Progress(DIGESTS[0], 4 * GB, GB * step // 100) for step in range(401)]
    printed = lines(events, capsys)
    assert 9 <= len(printed) <= 12
    assert printed[-1] == f"{DIGESTS[0].short}: 4 GB, done"
    assert ": 4 GB, 50 %, 100 MB/s, 20 s left" in "\n".join(printed)


def test_lines_say_what_was_here_and_what_is_small_once(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = [Progress(DIGESTS[0], GB, GB), Progress(DIGESTS[0], GB, GB)]
    events += [Progress(DIGESTS[1], 1000, step) for step in range(1001)]
    assert lines(events, capsys, seconds=0.001) == [
        "llama3.2: 1 GB of 1.0 GB here already",
        f"{DIGESTS[1].short}: 1 KB, done",
    ]


def test_lines_for_thousands_of_layers_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = [Progress(digest, 1000, 0) for digest in DIGESTS]
    events += [Progress(digest, 1000, 1000) for digest in DIGESTS]
    printed = lines(events, capsys, seconds=0.001)
    assert len(printed) <= 12
    assert printed[-1].startswith("llama3.2: 5,000 of 5,000 layers, 5 MB, 100 %")


def test_lines_break_a_long_silence(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = [Status("pulling manifest"), *[Progress(DIGESTS[0], 4 * GB, 1)] * 130]
    printed = lines(events, capsys, seconds=1.0)
    assert printed[1:] == ["llama3.2: no data for 5 s", *["llama3.2: 0 of 1 layers, 4 GB, 0 %"] * 2]


def test_lines_tell_each_silence_once(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = [Progress(DIGESTS[0], 4 * GB, completed) for completed in [0, 1, *[2] * 20, *[GB] * 20]]
    assert lines(events, capsys, seconds=1.0) == [
        f"{DIGESTS[0].short}: 4 GB, 0 %, 1 B/s, more than a day left",
        "llama3.2: no data for 5 s",
        f"{DIGESTS[0].short}: 4 GB, 25 %",
        "llama3.2: no data for 5 s",
    ]


def test_lines_tell_no_silence_while_all_that_is_left_is_verifying(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = [Progress(DIGESTS[0], 1000, 0), *[Progress(DIGESTS[0], 1000, 999)] * 20]
    assert "no data" not in "\n".join(lines(events, capsys, seconds=1.0))


def test_lines_tell_that_a_registry_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    printed = lines([Status("pulling manifest")] * 10, capsys, seconds=1.0)
    assert printed == ["llama3.2: pulling manifest", "llama3.2: no data for 5 s"]


WAITING = "waiting, as registry.example:5000 refuses connections; trying again"


def test_lines_tell_once_what_the_manifest_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    waiting: list[Event] = [Status("pulling manifest"), Status(f"pulling manifest: {WAITING}")]
    printed = lines([*waiting, *waiting[1:] * 20, Status("success")], capsys, seconds=1)
    assert printed[:2] == ["llama3.2: pulling manifest", f"llama3.2: {WAITING}"]
    assert len(printed) == 3


def test_lines_tell_what_a_layer_waits_for_each_time_that_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    def waiting(completed: int) -> list[Event]:
        return [Progress(DIGESTS[0], GB, completed, WAITING)] * 20

    events = [Progress(DIGESTS[0], GB, 0), *waiting(1), Progress(DIGESTS[0], GB, GB // 2), *waiting(GB // 2)]
    printed = lines(events, capsys, seconds=1)
    assert printed.count(f"llama3.2: {WAITING}") == 2
    assert not any("no data" in line for line in printed)


def test_lines_of_a_long_wait_say_what_for_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    printed = lines([Progress(DIGESTS[0], GB, 0, WAITING)] * 150, capsys, seconds=1)
    assert len(printed) == 3
    assert all(line.endswith(WAITING) for line in printed)


def test_a_reason_to_wait_goes_over_the_wire_in_the_status(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    Wire().show(Progress(DIGESTS[0], 10, 5, WAITING))
    assert json.loads(capsysbinary.readouterr().out)["status"] == f"pulling {DIGESTS[0].short}: {WAITING}"


def test_the_outcome_does_not_break_a_word_in_a_narrow_terminal() -> None:
    file = io.StringIO()
    console = Console(file=file, width=40, height=24, force_terminal=True, color_system=None)
    with Bars("mistral:7b-instruct", console, Clock()) as bars:
        bars.show(Progress(DIGESTS[0], GB, 0))
        bars.show(Progress(DIGESTS[0], GB, GB))
        bars.show(Status("success"))
    said = file.getvalue().rpartition("\x1b[?25h")[2].splitlines()
    assert len(said) == 2
    assert max(map(len, said)) <= 40
    assert " ".join(line.strip() for line in said).startswith("pulled mistral:7b-instruct: 1 GB in ")


def test_lines_repeat_no_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines([Status("pulling manifest")] * 5, capsys) == ["llama3.2: pulling manifest"]


def test_the_wire_form_is_the_wires(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    wire = Wire()
    wire.show(Status("pulling manifest"))
    wire.show(Progress(DIGESTS[0], 10, 0))
    wire.fail("no such model")
    printed = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert printed == [
        {"status": "pulling manifest"},
        {"status": f"pulling {DIGESTS[0].short}", "digest": str(DIGESTS[0]), "total": 10, "completed": 0},
        {"error": "no such model"},
    ]


def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(best_view("llama3.2"), Lines)


@pytest.mark.parametrize(
    ("here", "fetched", "said"),
    [
        (0, 98_000_000, "pulled llama3.2: 98 MB in 2.5 s, 39 MB/s"),
        (49_000_000, 49_000_000, "pulled llama3.2: 49 MB of 98 MB in 2.5 s, 19 MB/s"),
        (1_000, 97_999_000, "pulled llama3.2: 97 MB of 98 MB in 2.5 s, 39 MB/s"),
        (1_000, 98_000_000, "pulled llama3.2: 98 MB in 2.5 s, 39 MB/s"),
        (98_000_000, 0, "llama3.2 is up to date"),
    ],
)
def test_the_outcome_tells_what_was_fetched(here: int, fetched: int, said: str) -> None:
    tally = Tally(0)
    tally.take(Progress(DIGESTS[0], here + fetched, here), 0)
    tally.take(Progress(DIGESTS[0], here + fetched, here + fetched), 2.5)
    assert outcome("llama3.2", tally, 2.5) == said
