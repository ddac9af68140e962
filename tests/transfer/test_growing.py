"""The file of a growing blob, where its disk and its folder fail."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pulling import eventually
from tests.transfer.doubles import FolderStaging, content
from towline.errors import StoreError, TowlineError
from towline.model.checksums import BLOCK_BYTES, Checksums
from towline.model.digest import Digest
from towline.transfer import growing
from towline.transfer.growing import GrowingFile
from towline.transfer.journal import Journal
from towline.transfer.syncing import Syncing

DATA = content(2 * BLOCK_BYTES)


@pytest.fixture
def staging(tmp_path: Path) -> FolderStaging:
    staging = FolderStaging(tmp_path / "staging")
    assert staging.acquire()
    return staging


@pytest.fixture
def syncing() -> Iterator[Syncing]:
    syncing = Syncing()
    yield syncing
    syncing.close(10)


def grown(staging: FolderStaging, syncing: Syncing, data: bytes = DATA) -> GrowingFile:
    file = GrowingFile(staging, Digest.of(data), len(data), writeback=True, syncing=syncing)
    file.open()
    return file


def filled(staging: FolderStaging, syncing: Syncing) -> GrowingFile:
    """One that has all its bytes."""
    file = grown(staging, syncing)
    for start in range(0, len(DATA), BLOCK_BYTES):
        block = memoryview(DATA)[start : start + BLOCK_BYTES]
        file.write(block, start)
        file.hashed(start, block)
    return file


class Ending:
    """What `finish` says, and on which thread."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.errors: list[TowlineError | None] = []
        self.thread: threading.Thread | None = None

    def __call__(self, error: TowlineError | None) -> None:
        self.errors.append(error)
        self.thread = threading.current_thread()
        self.over.set()


class SlowStaging(FolderStaging):
    """Its disk takes as long as the test wants."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.waiting, self.gate = threading.Event(), threading.Event()

    def finish(self, file: int) -> None:
        self.waiting.set()
        assert self.gate.wait(30)
        super().finish(file)


def test_its_place_is_given_back_though_closing_it_fails(
    staging: FolderStaging, syncing: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = grown(staging, syncing)
    real = os.close

    def close(descriptor: int) -> None:
        real(descriptor)
        raise OSError(5, "the disk says no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close)
        file.close(keep=True)
        eventually(lambda: not staging.held, "the place to be given back")


def test_a_folder_that_was_removed_is_noticed_while_bytes_come(
    staging: FolderStaging, syncing: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "SIGN_SECONDS", 0.0)
    file = grown(staging, syncing)
    file.write(memoryview(DATA)[:BLOCK_BYTES], 0)
    os.unlink(staging.data_path)
    with pytest.raises(FileNotFoundError):
        file.write(memoryview(DATA)[BLOCK_BYTES:], BLOCK_BYTES)
    file.close(keep=True)


def test_a_blob_of_a_block_has_no_journal_and_begins_anew(staging: FolderStaging, syncing: Syncing) -> None:
    small = DATA[:1000]
    file = grown(staging, syncing, small)
    file.write(memoryview(small), 0)
    file.close(keep=True)
    eventually(lambda: not staging.held, "the place to be given back")
    assert not os.path.exists(staging.journal_path)
    again = grown(staging, syncing, small)
    assert os.path.getsize(staging.data_path) == 0
    again.close(keep=False)
    eventually(lambda: staging.discarded == 1, "what was written to be removed")


def test_those_who_wait_are_given_signs_of_life_while_it_grows(
    staging: FolderStaging, syncing: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "SIGN_SECONDS", 0.0)
    file = grown(staging, syncing)
    before = staging.last_sign()
    file.write(memoryview(DATA)[:BLOCK_BYTES], 0)
    written = staging.last_sign()
    file.hashed(0, memoryview(DATA)[:BLOCK_BYTES])
    assert before < written < staging.last_sign()
    file.close(keep=False)


def test_the_journal_is_told_what_is_hashed_though_the_place_cannot_be_signed_for(
    staging: FolderStaging, syncing: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "SIGN_SECONDS", 0.0)
    passed: list[int] = []
    monkeypatch.setattr(Journal, "passed", lambda _, start, data: passed.append(start))

    def lost(_: FolderStaging) -> None:
        raise FileNotFoundError

    file = grown(staging, syncing)
    file.write(memoryview(DATA)[:BLOCK_BYTES], 0)
    monkeypatch.setattr(FolderStaging, "sign", lost)
    file.hashed(0, memoryview(DATA)[:BLOCK_BYTES])
    assert passed == [0]
    file.close(keep=False)


def test_what_is_finished_is_whole_and_its_place_free_when_that_is_told(
    staging: FolderStaging, syncing: Syncing
) -> None:
    ending = Ending()
    filled(staging, syncing).finish(ending)
    assert ending.over.wait(30)
    assert ending.errors == [None]
    assert staging.whole.read_bytes() == DATA
    assert not staging.held


def test_its_journal_has_become_the_list_of_its_checksums(staging: FolderStaging, syncing: Syncing) -> None:
    ending = Ending()
    filled(staging, syncing).finish(ending)
    assert ending.over.wait(30)
    with open(staging.journal_path, "rb") as journal:
        found = Checksums.decode(journal.read(), Digest.of(DATA), len(DATA))
    assert found is not None
    assert found.matches(1, DATA[BLOCK_BYTES:])


def test_whoever_finishes_does_not_wait_for_the_disk_and_signs_of_life_go_on(tmp_path: Path, syncing: Syncing) -> None:
    staging = SlowStaging(tmp_path / "slow")
    assert staging.acquire()
    file, ending = filled(staging, syncing), Ending()
    file.finish(ending)
    assert staging.waiting.wait(30)
    assert not ending.over.is_set()
    before = staging.last_sign()
    file.sign()
    assert staging.last_sign() > before
    staging.gate.set()
    assert ending.over.wait(30)
    assert ending.thread is not threading.current_thread()
    signs = staging.last_sign()
    file.sign()
    assert staging.last_sign() == signs


def test_one_that_is_closed_while_it_waits_for_the_disk_is_whole_all_the_same(tmp_path: Path, syncing: Syncing) -> None:
    staging = SlowStaging(tmp_path / "slow")
    assert staging.acquire()
    file, ending = filled(staging, syncing), Ending()
    file.finish(ending)
    assert staging.waiting.wait(30)
    file.close(keep=False)
    staging.gate.set()
    assert ending.over.wait(30)
    assert ending.errors == [None]
    assert staging.whole.read_bytes() == DATA
    assert not staging.discarded


def test_one_that_cannot_be_finished_stays_as_it_is(
    staging: FolderStaging, syncing: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(_: FolderStaging, __: int) -> None:
        raise StoreError("the disk says no")

    monkeypatch.setattr(FolderStaging, "finish", finish)
    ending = Ending()
    filled(staging, syncing).finish(ending)
    assert ending.over.wait(30)
    assert str(ending.errors[0]) == "the disk says no"
    assert not staging.held
    assert staging.acquire()
    again = GrowingFile(staging, Digest.of(DATA), len(DATA), writeback=True, syncing=syncing)
    assert list(again.open().ranges) == [(0, len(DATA))]
    again.close(keep=True)
