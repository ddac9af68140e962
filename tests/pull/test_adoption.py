"""Going on with what an Ollama left of a download."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.support.models import Blob, Model, generate
from tests.support.pulling import Pulling
from tests.support.registry import FaultRegistry

MIB = 1 << 20
SIZE = 20 * MIB
PART = 8 * MIB


@pytest.fixture
def model() -> Model:
    return generate(SIZE)


def leave_partial(pulling: Pulling, blob: Blob, completed: list[int], *, age: float = 3600.0, damage: int = -1) -> Path:
    """What an Ollama leaves of an interrupted download: a sparse file, and what is there of each of its parts."""
    pulling.layout.blobs.mkdir(parents=True, exist_ok=True)
    partial = pulling.layout.blobs / f"{blob.digest.file_name}-partial"
    content = bytearray(blob.size)
    for number, count in enumerate(completed):
        offset = number * PART
        size = min(PART, blob.size - offset)
        content[offset : offset + count] = blob.data[offset : offset + count]
        part = {"N": number, "Offset": offset, "Size": size, "Completed": count}
        Path(f"{partial}-{number}").write_text(json.dumps(part))
    if damage >= 0:
        content[damage] ^= 1
    partial.write_bytes(content)
    then = time.time() - age
    for path in pulling.layout.blobs.iterdir():
        os.utime(path, (then, then))
    return partial


def left(pulling: Pulling) -> list[str]:
    return [path.name for path in pulling.layout.blobs.iterdir() if "partial" in path.name]


class TestAdopting:
    def test_what_is_there_is_not_fetched_again(self, pulling: Pulling, registry: FaultRegistry, model: Model) -> None:
        name = registry.add(model, "library/left")
        leave_partial(pulling, model.weights, [PART, 3 * MIB, 0])
        pull = pulling.pull(name, model)
        assert pull.first(model.weights) == PART + 3 * MIB
        assert registry.bytes_sent(model.weights) == SIZE - PART - 3 * MIB

    def test_a_file_that_nobody_uses_is_moved(self, pulling: Pulling, registry: FaultRegistry, model: Model) -> None:
        name = registry.add(model, "library/left")
        leave_partial(pulling, model.weights, [PART, 0, 0])
        pulling.pull(name, model)
        assert left(pulling) == []

    def test_a_file_that_just_changed_is_copied(self, pulling: Pulling, registry: FaultRegistry, model: Model) -> None:
        name = registry.add(model, "library/left")
        partial = leave_partial(pulling, model.weights, [PART, 0, 0], age=1.0)
        before = partial.read_bytes()
        pulling.pull(name, model)
        assert partial.read_bytes() == before
        assert len(left(pulling)) == 4
        assert registry.bytes_sent(model.weights) == SIZE - PART

    def test_a_file_that_is_open_is_copied(self, pulling: Pulling, registry: FaultRegistry, model: Model) -> None:
        name = registry.add(model, "library/left")
        partial = leave_partial(pulling, model.weights, [PART, 0, 0])
        with partial.open("rb"):
            pulling.pull(name, model)
        assert partial.exists()
        assert registry.bytes_sent(model.weights) == SIZE - PART

    def test_it_goes_on_from_there_also_after_an_interruption(
        self, pulling: Pulling, registry: FaultRegistry, model: Model
    ) -> None:
        name = registry.add(model, "library/left")
        leave_partial(pulling, model.weights, [PART, 0, 0])
        following = pulling.start(name).until_completed(model.weights, PART + 2 * MIB)
        following.close()
        registry.wait_idle()
        assert pulling.pull(name, model).first(model.weights) >= PART + 2 * MIB


class TestDoubting:
    def test_wrong_bytes_are_found_and_fetched(self, pulling: Pulling, registry: FaultRegistry, model: Model) -> None:
        name = registry.add(model, "library/left")
        leave_partial(pulling, model.weights, [PART, PART, SIZE - 2 * PART], damage=5 * MIB)
        pulling.pull(name, model)

    @pytest.mark.parametrize(
        "part",
        [
            "{",
            "[]",
            json.dumps({"N": 0, "Offset": -5, "Size": PART, "Completed": PART}),
            json.dumps({"N": 0, "Offset": 0, "Size": PART, "Completed": PART + 1}),
            json.dumps({"N": 0, "Offset": SIZE, "Size": PART, "Completed": PART}),
            json.dumps({"N": 0, "Offset": 0, "Size": "x", "Completed": None}),
        ],
    )
    def test_a_part_that_makes_no_sense_counts_as_none(
        self, pulling: Pulling, registry: FaultRegistry, model: Model, part: str
    ) -> None:
        name = registry.add(model, "library/left")
        partial = leave_partial(pulling, model.weights, [PART])
        Path(f"{partial}-0").write_text(part)
        pulling.pull(name, model)
        assert registry.bytes_sent(model.weights) == SIZE

    def test_a_file_of_another_length_counts_as_none(
        self, pulling: Pulling, registry: FaultRegistry, model: Model
    ) -> None:
        name = registry.add(model, "library/left")
        partial = leave_partial(pulling, model.weights, [PART])
        with partial.open("ab") as file:
            file.write(b"more")
        os.utime(partial, (1, 1))
        pulling.pull(name, model)
        assert registry.bytes_sent(model.weights) == SIZE


class TestOdd:
    """What is no partial download of an Ollama, though it has the name of one."""

    @pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
    @pytest.mark.parametrize("suffix", ["-partial", "-partial-0"])
    def test_it_is_let_alone(
        self, pulling: Pulling, registry: FaultRegistry, model: Model, tmp_path: Path, suffix: str, kind: str
    ) -> None:
        name = registry.add(model, "library/left")
        leave_partial(pulling, model.weights, [PART, 3 * MIB, 0])
        odd = pulling.layout.blobs / f"{model.weights.digest.file_name}{suffix}"
        odd.unlink()
        victim = tmp_path / "victim"
        victim.write_bytes(b"as it was")
        if kind == "pipe":
            os.mkfifo(odd)
        elif kind == "folder":
            odd.mkdir()
        else:
            odd.symlink_to(victim)
        pulling.pull(name, model)
        assert victim.read_bytes() == b"as it was"

    def test_parts_that_overlap_count_once(self, pulling: Pulling, registry: FaultRegistry, model: Model) -> None:
        name = registry.add(model, "library/left")
        partial = leave_partial(pulling, model.weights, [PART, 0, 0])
        part = {"N": 1, "Offset": 4 * MIB, "Size": PART, "Completed": PART - 4 * MIB}
        Path(f"{partial}-1").write_text(json.dumps(part))
        pull = pulling.pull(name, model)
        assert pull.first(model.weights) == PART
        assert registry.bytes_sent(model.weights) == SIZE - PART

    def test_it_is_adopted_also_where_towline_had_begun_and_has_nothing_yet(
        self, pulling: Pulling, registry: FaultRegistry, model: Model
    ) -> None:
        name = registry.add(model, "library/left")
        pulling.staged(model.weights).mkdir(parents=True)
        (pulling.staged(model.weights) / "data").write_bytes(bytes(SIZE))
        leave_partial(pulling, model.weights, [PART, 3 * MIB, 0])
        pulling.pull(name, model)
        assert registry.bytes_sent(model.weights) == SIZE - PART - 3 * MIB

    def test_killed_before_it_is_taken_over_it_still_is_after(
        self, pulling: Pulling, registry: FaultRegistry, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = registry.add(model, "library/left")
        leave_partial(pulling, model.weights, [PART, 3 * MIB, 0])
        real = os.rename

        def killed(source: str | Path, target: str | Path) -> None:
            real(source, target)
            if str(target).endswith("/data"):
                raise OSError(5, "as if killed after the move")

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", killed)
            pulling.fail(name, model)
        registry.reset()
        pulling.pull(name, model)
        assert registry.bytes_sent(model.weights) == SIZE - PART - 3 * MIB
