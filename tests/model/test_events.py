"""Events and their form on the wire."""

from __future__ import annotations

import json

from towline.model.digest import Digest
from towline.model.events import Failed, Progress, Status, encode

DIGEST = Digest("8daa9615cce3" + "0" * 52)


def test_a_status_is_one_field() -> None:
    assert encode(Status("pulling manifest")) == b'{"status":"pulling manifest"}\n'


def test_progress_holds_completed_also_when_it_is_zero() -> None:
    assert json.loads(encode(Progress(DIGEST, 10, 0))) == {
        "status": "pulling 8daa9615cce3",
        "digest": str(DIGEST),
        "total": 10,
        "completed": 0,
    }


def test_an_error_is_one_field_and_one_line() -> None:
    assert encode(Failed("a\nb")) == b'{"error":"a\\nb"}\n'
