"""Going on with what an Ollama left of a download."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pull.ollama import kill_in_the_middle
from tests.support.models import Blob, Model, generate
from tests.support.mounts import loop_disk, small_disk
from tests.support.pulling import Pulling
from tests.support.registry import FaultRegistry
from towline.store.store import Store

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

    @pytest.mark.parametrize("size", [PART, 2 * PART, SIZE - 1, SIZE + 1, 2 * SIZE])
    def test_a_manifest_that_lies_about_the_size_does_not_get_it(
        self, pulling: Pulling, registry: FaultRegistry, model: Model, size: int
    ) -> None:
        manifest = json.loads(model.manifest)
        for layer in manifest["layers"]:
            if layer["digest"] == str(model.weights.digest):
                layer["size"] = size
        registry.put_manifest("library/lie", "latest", json.dumps(manifest).encode())
        registry.add(model, "library/left")
        leave_partial(pulling, model.weights, [PART, 3 * MIB, 0])
        before = left(pulling)
        pulling.fail(f"{registry.host}/library/lie")
        assert left(pulling) == before

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


class TestKilled:
    """An Ollama that was killed (-9): the files of its parts know nothing, the sparse file holds the bytes."""

    MISALIGNED = 7 * MIB + 1234

    @pytest.fixture(params=["memory", "ext4"])
    def disk(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
        """A file system that tells holes from data."""
        folder = tmp_path / "disk"
        in_memory = request.param == "memory"
        with small_disk(folder, 128 * MIB) if in_memory else loop_disk(folder, tmp_path / "image"):
            yield folder

    @pytest.mark.parametrize("count", [0, 1, 4096, 3 * MIB, 3 * MIB + 1, 5 * MIB - 4097, MISALIGNED])
    @pytest.mark.parametrize("part", [PART, MISALIGNED], ids=["parts of whole blocks", "parts that share blocks"])
    def test_what_it_had_is_taken_over(
        self, registry: FaultRegistry, model: Model, disk: Path, tmp_path: Path, part: int, count: int
    ) -> None:
        with Pulling(disk / "models", connections_per_blob=1) as pulling:
            partial = kill_in_the_middle(
                pulling.layout.blobs, model.weights, tmp_path / "source", part=part, count=count
            )
            settle(partial)
            pulling.pull(registry.add(model, "library/left"), model)
            had = sum(min(count, part, SIZE - offset) for offset in range(0, SIZE, part))
            assert SIZE - had <= registry.bytes_sent(model.weights) <= SIZE - had + 3 * 64
            assert not had or not left(pulling)

    def test_also_while_it_is_too_young_to_be_moved(
        self, registry: FaultRegistry, model: Model, disk: Path, tmp_path: Path
    ) -> None:
        with Pulling(disk / "models", connections_per_blob=1) as pulling:
            kill_in_the_middle(pulling.layout.blobs, model.weights, tmp_path / "source", part=PART, count=3 * MIB)
            pulling.pull(registry.add(model, "library/left"), model)
            assert registry.bytes_sent(model.weights) <= SIZE - 9 * MIB + 3 * 64

    def test_holes_are_no_data_whatever_a_part_says(
        self, registry: FaultRegistry, model: Model, disk: Path, tmp_path: Path
    ) -> None:
        """After a power cut: what the part says was written, the bytes were not."""
        with Pulling(disk / "models", connections_per_blob=1) as pulling:
            partial = kill_in_the_middle(
                pulling.layout.blobs, model.weights, tmp_path / "source", part=PART, count=3 * MIB
            )
            Path(f"{partial}-0").write_text(json.dumps({"N": 0, "Offset": 0, "Size": PART, "Completed": PART}))
            settle(partial)
            pulling.pull(registry.add(model, "library/left"), model)
            assert registry.bytes_sent(model.weights) <= SIZE - 9 * MIB + 3 * 64


class TestWithoutHoles:
    """Where nobody tells a hole from data: only what the parts say counts, or zeros would cost a whole download."""

    def test_a_copy_with_its_holes_written_out(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, tmp_path: Path
    ) -> None:
        partial = kill_in_the_middle(pulling.layout.blobs, model.weights, tmp_path / "source", part=PART, count=3 * MIB)
        partial.write_bytes(partial.read_bytes())
        settle(partial)
        pulling.pull(registry.add(model, "library/left"), model)
        assert registry.bytes_sent(model.weights) == SIZE

    @pytest.mark.parametrize("answer", ["all data", "refused"])
    def test_a_file_system_that_cannot_tell(
        self,
        registry: FaultRegistry,
        pulling: Pulling,
        model: Model,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        answer: str,
    ) -> None:
        real = os.lseek

        def lseek(file: int, offset: int, whence: int) -> int:
            if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
                return real(file, offset, whence)
            if answer == "refused":
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return offset if whence == os.SEEK_DATA else os.fstat(file).st_size

        partial = kill_in_the_middle(pulling.layout.blobs, model.weights, tmp_path / "source", part=PART, count=3 * MIB)
        Path(f"{partial}-1").write_text(json.dumps({"N": 1, "Offset": PART, "Size": PART, "Completed": 2 * MIB}))
        settle(partial)
        monkeypatch.setattr(os, "lseek", lseek)
        pulling.pull(registry.add(model, "library/left"), model)
        assert registry.bytes_sent(model.weights) == SIZE - 2 * MIB


def settle(partial: Path, age: float = 600.0) -> None:
    """As if nothing had touched the partial file and those of its parts for so long."""
    then = time.time() - age
    for path in partial.parent.glob(f"{partial.name}*"):
        os.utime(path, (then, then))


class TestClearing:
    """A copied partial file is an Ollama's: it goes when the blob is whole and nobody has touched it for an hour."""

    @pytest.fixture
    def name(self, pulling: Pulling, registry: FaultRegistry, model: Model) -> str:
        """A model that was pulled with what a young partial file held."""
        name = registry.add(model, "library/left")
        leave_partial(pulling, model.weights, [PART, 0, 0], age=1.0)
        pulling.pull(name, model)
        assert len(left(pulling)) == 4
        return name

    @pytest.fixture
    def partial(self, pulling: Pulling, model: Model, name: str) -> Path:
        return pulling.layout.blobs / f"{model.weights.digest.file_name}-partial"

    def test_the_next_pull_of_the_model_removes_it(
        self, pulling: Pulling, model: Model, name: str, partial: Path
    ) -> None:
        settle(partial, 3700)
        pulling.pull(name, model)
        assert left(pulling) == []

    def test_a_pull_of_another_model_removes_it(self, pulling: Pulling, registry: FaultRegistry, partial: Path) -> None:
        settle(partial, 3700)
        pulling.pull(registry.add(generate(MIB), "library/other"))
        assert left(pulling) == []

    def test_a_start_removes_it(self, pulling: Pulling, partial: Path) -> None:
        settle(partial, 3700)
        Store(pulling.models).prepare()
        assert left(pulling) == []

    @pytest.mark.parametrize("which", ["-partial", "-partial-2"])
    def test_it_stays_while_any_of_its_files_is_younger(
        self, pulling: Pulling, model: Model, partial: Path, which: str
    ) -> None:
        settle(partial, 3700)
        (partial.parent / f"{model.weights.digest.file_name}{which}").touch()
        Store(pulling.models).prepare()
        assert len(left(pulling)) == 4

    def test_it_stays_while_a_program_has_it_open(self, pulling: Pulling, partial: Path) -> None:
        settle(partial, 3700)
        with partial.open("rb"):
            Store(pulling.models).prepare()
            assert len(left(pulling)) == 4
        Store(pulling.models).prepare()
        assert left(pulling) == []

    def test_it_stays_while_its_blob_is_not_here(self, pulling: Pulling, model: Model, partial: Path) -> None:
        settle(partial, 3700)
        Path(pulling.layout.blob(model.weights.digest)).unlink()
        Store(pulling.models).prepare()
        assert len(left(pulling)) == 4

    def test_it_stays_where_manifests_are_in_a_layout_that_is_not_known(self, pulling: Pulling, partial: Path) -> None:
        settle(partial, 3700)
        (pulling.models / "manifests-v3").mkdir()
        Store(pulling.models).prepare()
        assert len(left(pulling)) == 4
