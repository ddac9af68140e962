"""The sentences for what the operating system says of the store."""

from __future__ import annotations

import errno
import os

import pytest

from tests.support.events import check_sentence
from towline.errors import NoSpace, store_error


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_of_the_system_has_a_sentence_without_its_path(number: int) -> None:
    error = store_error(OSError(number, os.strerror(number), "/secret/path"))
    check_sentence(str(error))
    assert "/secret" not in str(error)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_from_other_failures(number: int) -> None:
    assert isinstance(store_error(OSError(number, "")), NoSpace)


def test_an_error_without_a_number_has_a_sentence_too() -> None:
    check_sentence(str(store_error(OSError("odd"))))
