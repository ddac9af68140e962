"""The place of a growing blob, where the store is removed from under it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.pulling import Pulling
from towline.errors import StoreError
from towline.model.digest import Digest
from towline.store.staging import StagedBlob

DATA = b"all of it" * 1000


def test_what_another_download_began_in_the_same_place_is_not_taken_for_what_was_verified(pulling: Pulling) -> None:
    digest = Digest.of(DATA)
    one, other = (StagedBlob(pulling.layout, digest, len(DATA)) for _ in range(2))
    assert one.acquire()
    with open(one.data_path, "w+b") as verified:
        verified.write(DATA)
        verified.flush()
        shutil.rmtree(pulling.layout.staging)
        shutil.rmtree(pulling.layout.locks)
        assert other.acquire()
        Path(other.data_path).write_bytes(b"\0" * len(DATA))
        with pytest.raises(StoreError, match="removed while it was in use"):
            one.finish(verified.fileno())
    assert not other.is_whole()
    assert os.listdir(os.path.dirname(other.data_path)) == ["data"]
    one.release()
    other.release()
