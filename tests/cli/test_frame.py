"""One picture of a pull."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from towline.cli.frame import MOST_ROWS, SMALL_ROW, Frame
from towline.cli.tally import Tally
from towline.model.digest import Digest
from towline.model.events import Event, Progress, Status

GB = 10**9
DIGESTS = [Digest.of(str(number).encode()) for number in range(5000)]


def drawn(
    events: list[Event], *, width: int = 80, height: int = 24, seconds: float = 1.0, ascii_only: bool = False
) -> list[str]:
    """The picture after these events, each `seconds` after the one before."""
    tally, now = Tally(0), 0.0
    for event in events:
        tally.take(event, now)
        now += seconds
    return picture(tally, now, width, height, ascii_only=ascii_only)


def picture(
    tally: Tally,
    now: float,
    width: int = 80,
    height: int = 24,
    *,
    name: str = "llama3.2",
    ascii_only: bool = False,
) -> list[str]:
    """The picture of this pull at this time."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii" if ascii_only else "utf-8")
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    console.print(Frame(name, tally, now))
    file.flush()
    return raw.getvalue().decode().splitlines()


def test_before_the_manifest_the_step_is_shown() -> None:
    assert drawn([Status("pulling manifest")])[0].rstrip() == "llama3.2  pulling manifest"


@pytest.mark.parametrize(
    ("width", "state"),
    [
        (120, "{}, waiting, as registry.example is not there; trying again"),
        (70, "waiting, as registry.example is not there; trying again"),
        (60, "waiting, as registry.example is not there"),
        (40, "waiting"),
    ],
)
def test_what_it_waits_for_is_said_once_in_as_many_words_as_fit(width: int, state: str) -> None:
    waiting = "waiting, as registry.example is not there; trying again"
    manifest = drawn([Status("pulling manifest"), Status(f"pulling manifest: {waiting}")], width=width)
    layer = drawn([Progress(DIGESTS[0], GB, 0), *[Progress(DIGESTS[0], GB, GB // 2, waiting)] * 9], width=width)
    assert manifest[0].rstrip() == f"llama3.2  {state.format('pulling manifest')}"
    assert layer[0].rstrip() == f"llama3.2  {state.format('0 of 1 layers here')}"
    assert "\n".join(layer).count("waiting") == 1
    assert "no data" not in "\n".join(layer)
    assert "silent" not in "\n".join(layer)


def test_a_layer_has_digest_bar_percent_bytes_speed_and_time_left() -> None:
    row = drawn([Progress(DIGESTS[0], 4 * GB, 0), Progress(DIGESTS[0], 4 * GB, GB)])[1]
    for part in (DIGESTS[0].short, "━", "25 %", "1.00/4.00 GB", "500 MB/s", "0:06"):
        assert part in row


def test_several_layers_have_a_total() -> None:
    rows = drawn([Progress(DIGESTS[0], 3 * GB, 0), Progress(DIGESTS[1], GB, GB)])
    assert rows[0].rstrip() == "llama3.2  1 of 2 layers here"
    assert rows[-1].startswith("total")
    assert "1.00/4.00 GB" in rows[-1]


def test_what_was_here_before_has_no_speed() -> None:
    row = drawn([Progress(DIGESTS[0], 4 * GB, GB), Progress(DIGESTS[0], 4 * GB, GB)])[1]
    assert "/s" not in row


@pytest.mark.parametrize("width", [1, 10, 20, 30, 44, 60, 80, 120, 300])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_width_breaks_it(width: int, ascii_only: bool) -> None:
    events: list[Event] = [Progress(digest, 4 * GB, 0) for digest in DIGESTS[:3]]
    events += [Progress(digest, 4 * GB, GB) for digest in DIGESTS[:3]]
    rows = drawn(events, width=width, ascii_only=ascii_only)
    assert all(len(row) <= width for row in rows)
    assert len(rows) == 5


def pull(*layers: tuple[int, int], silent: float = 0.0, total: int = 4 * GB) -> tuple[Tally, float]:
    """A pull, and the time: of each layer what was here at 0 s and at 1 s; then nothing for so many seconds."""
    tally = Tally(0)
    for digest, (here, _) in zip(DIGESTS, layers, strict=False):
        tally.take(Progress(digest, total, here), 0)
    for digest, (_, completed) in zip(DIGESTS, layers, strict=False):
        tally.take(Progress(digest, total, completed), 1)
    return tally, 1 + silent


class TestSilence:
    """What a picture shows while bytes do not come."""

    def test_a_silent_layer_says_so_and_has_neither_speed_nor_time_left(self) -> None:
        row = picture(*pull((0, GB), silent=4))[1]
        assert "silent 4s" in row
        assert row.rstrip().endswith("-:--")
        assert "/s" not in row

    def test_the_total_of_silent_layers_has_neither_as_well(self) -> None:
        total = picture(*pull((0, GB), (0, GB), silent=4))[-1]
        assert total.startswith("total")
        assert total.rstrip().endswith("-:--")
        assert "/s" not in total

    def test_the_longest_silence_fits_its_column(self) -> None:
        assert "silent 59:59" in picture(*pull((0, GB), silent=3599))[1]

    def test_a_layer_without_a_byte_waits_where_nothing_moves(self) -> None:
        rows = picture(*pull((0, 0), silent=8))
        assert rows[0].rstrip() == "llama3.2  0 of 1 layers here, no data for 9 s"
        assert "waiting" in rows[1]

    def test_a_layer_that_is_verified_says_so_at_once_without_a_speed(self) -> None:
        row = picture(*pull((0, 4 * GB - 1)))[1]
        assert "verifying" in row
        assert "/s" not in row
        assert ":" not in row


class TestManyLayers:
    """More layers than rows."""

    def test_all_that_wait_are_counted_drawn_or_not(self) -> None:
        rows = picture(*pull(*[(0, GB)] * 2, *[(0, 0)] * 28))
        assert rows[0].rstrip() == "llama3.2  0 of 30 layers here, 28 waiting"

    def test_no_layer_is_counted_as_waiting_where_the_rows_tell(self) -> None:
        assert picture(*pull((0, GB), (0, 0), silent=9))[0].rstrip() == "llama3.2  0 of 2 layers here, no data for 9 s"

    def test_the_number_of_rows_stays_while_layers_begin_and_end(self) -> None:
        heights = set()
        for done in range(31):
            for moving in (0, 1, 5):
                layers = [*[(0, 4 * GB)] * done, *[(0, GB)] * moving, *[(0, 0)] * 30][:30]
                heights.add(len(picture(*pull(*layers), height=40)))
        assert heights == {1 + MOST_ROWS + 1}

    def test_those_that_move_are_drawn_first(self) -> None:
        rows = picture(*pull(*[(0, 0)] * 20, *[(0, GB)] * 3), height=8)
        assert [row[:12] for row in rows[1:-1]] == [digest.short for digest in DIGESTS[20:23]]

    def test_small_layers_beside_a_large_one_are_only_counted(self) -> None:
        tally, now = pull((0, GB))
        for digest in DIGESTS[1:200]:
            tally.take(Progress(digest, SMALL_ROW - 1, 0), now)
        rows = picture(tally, now)
        assert rows[0].rstrip() == "llama3.2  0 of 200 layers here, 199 waiting"
        assert [row[:12].rstrip() for row in rows[1:]] == [DIGESTS[0].short, "total"]

    def test_a_model_of_few_small_layers_has_rows(self) -> None:
        assert len(picture(*pull((0, 5), (0, 6), total=10))) == 4

    def test_thousands_of_small_layers_have_none_but_the_total(self) -> None:
        rows = picture(*pull(*[(0, 4089)] * 100, *[(0, 0)] * 4900, total=4090))
        assert rows[0].rstrip() == "llama3.2  0 of 5,000 layers here, 4,900 waiting"
        assert [row[:12].rstrip() for row in rows[1:]] == ["total"]


class TestWidths:
    """What is left out where the terminal is narrow."""

    def test_on_40_columns_percent_and_speed_are_kept(self) -> None:
        row = picture(*pull((0, GB)), width=40)[1]
        assert "25 %" in row
        assert "1 GB/s" in row
        assert "silent 9s" in picture(*pull((0, GB), silent=9), width=40)[1]

    def test_on_80_columns_everything_is_there(self) -> None:
        row = picture(*pull((0, GB), silent=2))[1]
        for part in ("━", "25 %", "1.00/4.00 GB", "333 MB/s", "0:09"):
            assert part in row

    def test_a_long_name_is_cut_from_its_front_and_the_state_stays(self) -> None:
        rows = picture(*pull((0, GB)), width=40, name="registry.example:5000/team/model:v2")
        assert rows[0].rstrip() == "…:5000/team/model:v2  0 of 1 layers here"

    def test_a_stall_is_told_where_little_fits(self) -> None:
        rows = picture(*pull((0, GB), *[(0, 0)] * 99, silent=9), width=40, name="registry.example/team/model:v2")
        assert rows[0].rstrip().endswith("no data for 9 s")
        assert rows[0].startswith("…")


def test_an_empty_layer_is_a_full_bar() -> None:
    assert "100 %" in drawn([Progress(DIGESTS[0], 0, 0)])[1]
