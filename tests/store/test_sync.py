"""A disk that says, when it is asked to keep the bytes, that it could not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.support.models import generate
from tests.support.pulling import Pulling
from tests.support.registry import FaultRegistry
from towline.errors import StoreError


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_after_a_sync_that_failed_what_came_is_kept_and_the_next_pull_asks_again(
    registry: FaultRegistry, pulling: Pulling, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    model = generate(3 << 20)
    name = registry.add(model, "library/model")
    failing = str(pulling.staged(model.weights) / "data")
    real = os.fsync

    def fsync(file: int) -> None:
        if os.readlink(f"/proc/self/fd/{file}") == failing:
            raise OSError(code, os.strerror(code))
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert isinstance(pulling.fail(name, model), StoreError)
    assert not Path(pulling.layout.blob(model.weights.digest)).exists()
    registry.reset()
    assert pulling.pull(name, model).first(model.weights) == model.weights.size - 1
    assert registry.bytes_sent(model.weights) == 0
