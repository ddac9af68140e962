"""Pulling a model of which blobs have changed since they were verified, or lie elsewhere."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pull.process import PullProcess
from tests.support.events import check_pull
from tests.support.exchanges import blob
from tests.support.faults import Stall, Status
from tests.support.lacking import lacking_disk
from tests.support.models import Blob, Model, generate
from tests.support.pulling import Pulling, eventually
from tests.support.registry import FaultRegistry
from towline.errors import TowlineError
from towline.files.confined import Confined
from towline.model.digest import Digest
from towline.model.manifest import MODEL_LAYER
from towline.store import recheck, verified
from towline.transfer.journal import journaled_bytes

MIB = 1 << 20
MODEL = generate(4 * MIB, seed=41)
WEIGHTS = MODEL.weights
HUGE = Blob(MODEL_LAYER, b"", Digest("5" * 64), 1 << 40)
"""Hours of hashing."""


@pytest.fixture
def name(registry: FaultRegistry, pulling: Pulling) -> str:
    """A model that was pulled."""
    name = registry.add(MODEL, "library/model")
    pulling.pull(name, MODEL)
    registry.reset()
    return name


@pytest.fixture
def path(pulling: Pulling, name: str) -> Path:
    """Where its weights lie."""
    return Path(pulling.layout.blob(WEIGHTS.digest))


def overwrite(path: Path, at: int = MIB) -> None:
    """Changes four bytes in place, as a disk or a program does that nobody asked."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(each ^ 255 for each in WEIGHTS.data[at : at + 4]))


def replace(path: Path) -> None:
    """What a restored backup is: the same bytes, and the same time, in another file."""
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "touched": Path.touch,
    "older than it was": lambda path: os.utime(path, (1, 1)),
    "newer than now": lambda path: os.utime(path, (time.time() + 1e6,) * 2),
    "from a backup": replace,
}


def shown(pulling: Pulling, name: str) -> list[int]:
    """What a pull that succeeds says of the weights."""
    return pulling.pull(name, MODEL).completed[str(WEIGHTS.digest)]


class TestChangedBytes:
    @pytest.mark.parametrize("at", [0, MIB, WEIGHTS.size - 4], ids=["first", "middle", "last"])
    def test_they_are_found_and_fetched(self, registry: FaultRegistry, pulling: Pulling, path: Path, at: int) -> None:
        overwrite(path, at)
        pulling.pull(f"{registry.host}/library/model", MODEL)
        assert registry.bytes_sent() == WEIGHTS.size
        assert shown(pulling, f"{registry.host}/library/model") == [WEIGHTS.size]

    def test_they_are_found_also_where_a_clock_was_set_back(
        self, registry: FaultRegistry, name: str, path: Path
    ) -> None:
        overwrite(path)
        os.utime(path, (time.time() - 1e6,) * 2)
        with Pulling(path.parents[1]) as another:
            another.pull(name, MODEL)
        assert registry.bytes_sent() == WEIGHTS.size

    def test_they_are_found_in_the_very_moment_of_the_pull(
        self, registry: FaultRegistry, pulling: Pulling, name: str
    ) -> None:
        """The kernel gives all that is written within 4 ms the same time."""
        for seed in range(20):
            model = generate(64 << 10, seed=seed)
            pulling.pull(registry.add(model, "library/quick"), model)
            with Path(pulling.layout.blob(model.weights.digest)).open("r+b") as file:
                file.write(b"else")
            assert pulling.pull(f"{registry.host}/library/quick", model).fetched == {model.weights.digest}

    def test_a_pull_under_another_name_finds_them_as_well(
        self, registry: FaultRegistry, pulling: Pulling, path: Path
    ) -> None:
        overwrite(path)
        pulling.pull(registry.add(MODEL, "library/other"), MODEL)
        assert registry.bytes_sent() == WEIGHTS.size

    def test_what_an_update_keeps_is_looked_at(self, registry: FaultRegistry, pulling: Pulling, path: Path) -> None:
        newer = Model.of([WEIGHTS])
        overwrite(path)
        pulling.pull(registry.add(newer, "library/model"), newer)
        assert registry.bytes_sent(WEIGHTS) == WEIGHTS.size

    def test_while_they_cannot_be_had_no_pull_succeeds(
        self, registry: FaultRegistry, pulling: Pulling, name: str, path: Path
    ) -> None:
        overwrite(path)
        registry.fail(blob(WEIGHTS), Status(404), times=None)
        for _ in range(2):
            assert isinstance(pulling.fail(name, MODEL), TowlineError)
        registry.heal()
        pulling.pull(name, MODEL)

    def test_they_stay_where_they_are_until_the_right_ones_are_here(
        self, registry: FaultRegistry, pulling: Pulling, name: str, path: Path
    ) -> None:
        overwrite(path)
        wrong = path.read_bytes()
        registry.fail(blob(WEIGHTS), Status(404), times=None)
        pulling.fail(name, MODEL)
        assert path.read_bytes() == wrong
        registry.heal()
        held = Stall(after=3 * MIB)
        registry.fail(blob(WEIGHTS), held, times=1)
        following = pulling.start(name)
        assert held.reached.wait(20)
        path.touch()  # whoever does that does not make them right
        held.release()
        following.finish(MODEL)
        pulling.check_stored(name, MODEL)

    def test_what_has_come_in_their_place_is_kept_when_the_process_is_killed(
        self, registry: FaultRegistry, pulling: Pulling, name: str, path: Path
    ) -> None:
        overwrite(path)
        wrong = path.read_bytes()
        registry.fail(blob(WEIGHTS), Stall(after=3 * MIB), times=1)
        journal = str(pulling.staged(WEIGHTS) / "journal")
        with PullProcess(pulling.models, name) as process:
            eventually(lambda: journaled_bytes(journal, WEIGHTS.size, WEIGHTS.digest) >= 2 * MIB, "two blocks")
            process.kill()
        assert path.read_bytes() == wrong
        registry.reset()
        with Pulling(pulling.models) as another:
            another.pull(name, MODEL)
        assert registry.bytes_sent() <= WEIGHTS.size - 2 * MIB

    def test_they_are_replaced_where_there_are_no_links(self, registry: FaultRegistry, tmp_path: Path) -> None:
        name = registry.add(MODEL, "library/model")
        with lacking_disk(tmp_path / "disk", link=errno.EPERM) as disk, Pulling(disk.path) as pulling:
            pulling.pull(name, MODEL)
            overwrite(Path(pulling.layout.blob(WEIGHTS.digest)))
            assert pulling.pull(name, MODEL).fetched == {WEIGHTS.digest}

    def test_whoever_has_the_wrong_file_open_keeps_it_as_it_is(self, pulling: Pulling, name: str, path: Path) -> None:
        overwrite(path)
        with path.open("rb") as model_that_runs:
            wrong = path.read_bytes()
            pulling.pull(name, MODEL)
            assert model_that_runs.read() == wrong

    def test_two_processes_find_them(self, registry: FaultRegistry, pulling: Pulling, name: str, path: Path) -> None:
        overwrite(path)
        with PullProcess(pulling.models, name) as one, PullProcess(pulling.models, name) as two:
            for process in (one, two):
                check_pull(process.finish(), model=MODEL)
        pulling.check_stored(name, MODEL)
        assert registry.bytes_sent() == WEIGHTS.size


class TestChangedFile:
    """The same bytes, in a file that is not as it was: they are hashed, once."""

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_it_is_hashed_once_and_not_fetched(
        self, registry: FaultRegistry, pulling: Pulling, name: str, path: Path, change: Callable[[Path], object]
    ) -> None:
        change(path)
        values = shown(pulling, name)
        assert values[0] == 0
        assert values[-1] == WEIGHTS.size
        assert shown(pulling, name) == [WEIGHTS.size]
        assert not registry.blob_requests()

    @pytest.mark.parametrize(
        "change",
        [lambda path: path.with_name("another").hardlink_to(path), lambda path: path.chmod(0o640)],
        ids=["hard link", "mode"],
    )
    def test_one_that_is_only_linked_or_given_another_mode_is_believed(
        self, pulling: Pulling, name: str, path: Path, change: Callable[[Path], object]
    ) -> None:
        change(path)
        assert shown(pulling, name) == [WEIGHTS.size]

    def test_one_that_another_pull_has_touched_is_believed(
        self, registry: FaultRegistry, pulling: Pulling, name: str
    ) -> None:
        pulling.pull(registry.add(MODEL, "library/other"), MODEL)
        assert shown(pulling, name) == [WEIGHTS.size]

    def test_one_that_an_ollama_has_pulled_anew_is_hashed(self, pulling: Pulling, name: str, path: Path) -> None:
        path.unlink()
        path.write_bytes(WEIGHTS.data)
        assert shown(pulling, name)[0] == 0

    def test_one_that_nothing_was_noted_of_is_believed_by_its_size(
        self, registry: FaultRegistry, pulling: Pulling, name: str, path: Path
    ) -> None:
        (pulling.layout.own / "verified").unlink()
        overwrite(path)
        assert pulling.start(name).finish(MODEL).completed[str(WEIGHTS.digest)] == [WEIGHTS.size]
        assert not registry.blob_requests()

    def test_how_far_it_is_rises_while_it_is_read(self, pulling: Pulling, name: str, path: Path) -> None:
        (weights, *_) = pulling.puller.store.list()[0].manifest.layers
        reading = recheck.Recheck(weights, str(path))
        seen: list[int] = []
        assert reading.run(lambda: seen.append(reading.completed))
        assert seen == [0, MIB, 2 * MIB, 3 * MIB]
        assert reading.completed == WEIGHTS.size

    def test_one_that_is_wrong_is_not_shown_as_whole_before_it_is(
        self, pulling: Pulling, name: str, path: Path
    ) -> None:
        (weights, *_) = pulling.puller.store.list()[0].manifest.layers
        overwrite(path, WEIGHTS.size - 4)
        reading = recheck.Recheck(weights, str(path))
        assert not reading.run(lambda: None)
        assert reading.completed == WEIGHTS.size - 1

    def test_one_that_is_written_to_while_it_is_read_is_read_again(
        self, pulling: Pulling, name: str, path: Path
    ) -> None:
        (weights, *_) = pulling.puller.store.list()[0].manifest.layers
        overwrite(path)
        reading = recheck.Recheck(weights, str(path))
        steps: list[int] = []

        def mend() -> None:
            steps.append(reading.completed)
            if len(steps) == 3:
                with path.open("r+b") as file:
                    file.write(WEIGHTS.data)

        assert reading.run(mend)
        assert steps == sorted(steps)
        assert reading.stamp == verified.stamp(path.stat())


class TestStopped:
    """Nobody waits any longer, or the process is killed, while a file is hashed that takes hours."""

    @pytest.fixture
    def huge(self, registry: FaultRegistry, pulling: Pulling, tmp_path: Path) -> str:
        """A model with a layer that is a link to a sparse file."""
        with (tmp_path / "sparse").open("wb") as file:
            file.truncate(HUGE.size)
        pulling.layout.blobs.mkdir(parents=True)
        Path(pulling.layout.blob(HUGE.digest)).symlink_to(tmp_path / "sparse")
        model = MODEL.with_manifest(layers=[HUGE.descriptor])
        return registry.add(model, "library/huge")

    def test_giving_up_ends_it(self, pulling: Pulling, huge: str, tmp_path: Path) -> None:
        pulling.start(huge).until_completed(HUGE, MIB).close()
        eventually(lambda: not os.listdir(pulling.layout.pins), "the pull to end")
        assert (tmp_path / "sparse").stat().st_size == HUGE.size
        assert Path(pulling.layout.blob(HUGE.digest)).is_symlink()

    def test_silence_of_the_registry_meanwhile_is_none(
        self, registry: FaultRegistry, pulling: Pulling, huge: str, store_path: Path
    ) -> None:
        with Pulling(store_path, stall_timeout=0.1) as impatient:
            following = impatient.start(huge).until_completed(HUGE, MIB)
            before = following.completed[str(HUGE.digest)]
            time.sleep(0.5)
            following.until_completed(HUGE, before + MIB).close()

    def test_killed_it_is_hashed_again(self, registry: FaultRegistry, pulling: Pulling, huge: str) -> None:
        def looks() -> bool:
            return any(each.kind == "manifest" for each in registry.exchanges())

        with PullProcess(pulling.models, huge) as process:
            eventually(looks, "the manifest to be asked for")
            process.kill()
        pulling.start(huge).until_completed(HUGE, MIB).close()


class TestLinks:
    """A blob that was moved to another disk, and linked to."""

    @pytest.fixture
    def moved(self, path: Path, tmp_path: Path) -> Path:
        """Where it lies now."""
        moved = tmp_path / "disk"
        shutil.copy(path, moved)
        path.unlink()
        path.symlink_to(moved)
        os.utime(moved, (1_600_000_000, 1_600_000_000))
        moved.chmod(0o440)
        return moved

    def test_it_is_hashed_once_then_read_and_never_written_to(
        self, registry: FaultRegistry, pulling: Pulling, name: str, path: Path, moved: Path
    ) -> None:
        before = moved.stat()
        assert shown(pulling, name)[0] == 0
        assert shown(pulling, name) == [WEIGHTS.size]
        pulling.pull(registry.add(MODEL, "library/other"), MODEL)
        assert not registry.blob_requests()
        assert path.is_symlink()
        after = moved.stat()
        assert (after.st_mtime_ns, after.st_mode) == (before.st_mtime_ns, before.st_mode)
        assert not stat.S_IMODE(after.st_mode) & 0o222

    def test_one_that_nothing_was_noted_of_is_hashed(
        self, pulling: Pulling, name: str, moved: Path, store_path: Path
    ) -> None:
        (pulling.layout.own / "verified").unlink()
        assert shown(pulling, name)[0] == 0

    def test_wrong_bytes_in_it_are_fetched_into_the_store_and_stay_where_they_are(
        self, registry: FaultRegistry, pulling: Pulling, name: str, path: Path, moved: Path
    ) -> None:
        moved.chmod(0o640)
        overwrite(moved)
        wrong = moved.read_bytes()
        pulling.pull(name, MODEL)
        assert not path.is_symlink()
        assert moved.read_bytes() == wrong
        assert registry.bytes_sent() == WEIGHTS.size

    @pytest.mark.parametrize("kind", ["pipe", "folder", "nothing"])
    def test_one_to_no_file_is_replaced(self, pulling: Pulling, name: str, path: Path, moved: Path, kind: str) -> None:
        moved.unlink()
        if kind == "pipe":
            os.mkfifo(moved)
        elif kind == "folder":
            moved.mkdir()
        pulling.pull(name, MODEL)
        assert not path.is_symlink()


class TestTheRecord:
    """`towline/verified`, whatever became of it."""

    @pytest.fixture
    def record(self, pulling: Pulling, name: str) -> Path:
        return pulling.layout.own / "verified"

    def test_what_a_pull_notes_itself_it_does_not_read_again(
        self, registry: FaultRegistry, pulling: Pulling, name: str, record: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reads: list[Confined] = []
        real = verified._read

        def counted(path: Confined) -> bytes:
            reads.append(path)
            return real(path)

        monkeypatch.setattr(verified, "_read", counted)
        other = generate(64 << 10, seed=71)
        for _ in range(2):
            pulling.pull(registry.add(other, "library/other"), other)
        assert not reads
        known = pulling.puller.store._verified
        assert known._current() == verified._parse(record.read_bytes())
        record.write_bytes(record.read_bytes())  # as another process might
        known._current()
        assert len(reads) == 1

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda raw: b"",
            lambda raw: os.urandom(10_000),
            lambda raw: bytes(len(raw)),
            lambda raw: raw[: len(raw) - 70],
            lambda raw: b"twlv" * 1000,
        ],
        ids=["empty", "garbage", "zeros", "torn", "beginnings"],
    )
    def test_garbage_in_it_costs_no_more_than_what_it_knew(
        self, pulling: Pulling, name: str, record: Path, spoil: Callable[[bytes], bytes]
    ) -> None:
        record.write_bytes(spoil(record.read_bytes()))
        pulling.pull(name, MODEL)

    @pytest.mark.parametrize("garbage", [b"x", b"twlv", os.urandom(1000), bytes(63)], ids=len)
    def test_what_is_noted_after_garbage_counts(
        self, registry: FaultRegistry, pulling: Pulling, name: str, path: Path, record: Path, garbage: bytes
    ) -> None:
        record.write_bytes(garbage)
        path.unlink()
        pulling.pull(name, MODEL)
        registry.reset()
        overwrite(path)
        pulling.pull(name, MODEL)
        assert registry.bytes_sent() == WEIGHTS.size

    @pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
    def test_what_is_no_file_in_its_place_is_let_alone(
        self, registry: FaultRegistry, pulling: Pulling, name: str, record: Path, tmp_path: Path, kind: str
    ) -> None:
        victim = tmp_path / "victim"
        victim.write_bytes(b"as it was")
        record.unlink()
        if kind == "pipe":
            os.mkfifo(record)
        elif kind == "folder":
            record.mkdir()
        else:
            record.symlink_to(victim)
        pulling.pull(registry.add(MODEL, "library/other"), MODEL)
        pulling.puller.store.prepare()
        assert victim.read_bytes() == b"as it was"

    def test_it_stays_small_however_often_models_come_and_go(
        self, registry: FaultRegistry, pulling: Pulling, record: Path, name: str, path: Path
    ) -> None:
        raw = record.read_bytes()
        record.write_bytes(raw * 2000)
        pulling.puller.store.prepare()
        assert record.stat().st_size == 64 * len(MODEL.blobs)
        overwrite(path)
        assert pulling.pull(name, MODEL).fetched == {WEIGHTS.digest}

    def test_what_is_gone_from_the_store_goes_from_it(self, pulling: Pulling, record: Path, path: Path) -> None:
        raw = record.read_bytes()
        record.write_bytes(raw * 2000)
        path.unlink()
        pulling.puller.store.prepare()
        assert record.stat().st_size == 64 * (len(MODEL.blobs) - 1)

    def test_processes_that_write_it_at_once_lose_nothing(
        self, registry: FaultRegistry, pulling: Pulling, tmp_path: Path
    ) -> None:
        models = [generate(16 << 10, seed=seed) for seed in range(4)]
        names = [registry.add(model, f"library/model-{number}") for number, model in enumerate(models)]
        processes = [PullProcess(pulling.models, name) for name in names]
        for process in processes:
            process.finish()
        for model, name in zip(models, names, strict=True):
            with Path(pulling.layout.blob(model.weights.digest)).open("r+b") as file:
                file.write(b"else")
            assert pulling.pull(name, model).fetched == {model.weights.digest}
