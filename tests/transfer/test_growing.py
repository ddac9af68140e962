"""The file of a growing blob, where its disk and its folder fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.transfer.doubles import FolderStaging, content
from towline.model.digest import Digest
from towline.transfer import growing
from towline.transfer.growing import GrowingFile
from towline.transfer.journal import BLOCK_BYTES

DATA = content(2 * BLOCK_BYTES)


@pytest.fixture
def staging(tmp_path: Path) -> FolderStaging:
    staging = FolderStaging(tmp_path / "staging")
    assert staging.acquire()
    return staging


def grown(staging: FolderStaging, data: bytes = DATA) -> GrowingFile:
    file = GrowingFile(staging, Digest.of(data), len(data), writeback=True)
    file.open()
    return file


def test_its_place_is_given_back_though_closing_it_fails(
    staging: FolderStaging, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = grown(staging)
    real = os.close

    def close(descriptor: int) -> None:
        real(descriptor)
        raise OSError(5, "the disk says no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close)
        file.close(keep=True)
    assert not staging.held


def test_a_folder_that_was_removed_is_noticed_while_bytes_come(
    staging: FolderStaging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "SIGN_SECONDS", 0.0)
    file = grown(staging)
    file.write(memoryview(DATA)[:BLOCK_BYTES], 0)
    os.unlink(staging.data_path)
    with pytest.raises(FileNotFoundError):
        file.write(memoryview(DATA)[BLOCK_BYTES:], BLOCK_BYTES)
    file.close(keep=True)


def test_a_blob_of_a_block_has_no_journal_and_begins_anew(staging: FolderStaging) -> None:
    small = DATA[:1000]
    file = grown(staging, small)
    file.write(memoryview(small), 0)
    file.close(keep=True)
    assert not os.path.exists(staging.journal_path)
    again = grown(staging, small)
    assert os.path.getsize(staging.data_path) == 0
    again.close(keep=False)
    assert staging.discarded == 1


def test_those_who_wait_are_given_signs_of_life_while_it_grows(
    staging: FolderStaging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "SIGN_SECONDS", 0.0)
    file = grown(staging)
    before = staging.last_sign()
    file.write(memoryview(DATA)[:BLOCK_BYTES], 0)
    written = staging.last_sign()
    file.settle(BLOCK_BYTES)
    assert before < written < staging.last_sign()
    file.close(keep=False)
