"""Whatever way something takes into a log, no secret goes with it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.planted import look_for_secrets, plant

PROGRAM = """
import gc, logging, sys, threading, warnings
import structlog
from towline import logs

form, level, secret, known = sys.argv[1:]
logs.configure(sys.stderr, level=int(level), form=form, secrets=(known,))

def fail():
    password = secret
    raise ValueError(f"https://u:{secret}@host/x?sig={secret} failed with Bearer {secret}")

class Gone:
    def __del__(self):
        fail()

library = logging.getLogger("urllib3.connection")
try:
    fail()
except ValueError as error:
    library.warning("Failed to parse headers (url=%s): %s", f"https://host/x?sig={secret}", error, exc_info=True)
    structlog.get_logger("towline.server").error("it failed", token=secret, url=f"http://h/?k={secret}", exc_info=error)
    logging.getLogger("towline").info("a line", extra={"headers": {"Authorization": secret}, "said": known})
    logging.getLogger("towline").debug("a detail")
library.debug("a detail of a library")
library.warning("arguments that do not fit %s", secret, known)
warnings.warn(f"mind https://u:{secret}@host")
Gone()
thread = threading.Thread(target=fail)
thread.start()
thread.join()
logging.getLogger("towline").info("x" * 100_000)
fail()
"""


def run(form: str, level: int) -> str:
    """What the program logs that meets all of it; the last fault is its end."""
    arguments = [form, str(level), plant("shape"), plant("known")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    look_for_secrets(done.stderr)
    return done.stderr


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("level", [10, 20])
def test_nothing_that_is_logged_warned_or_left_uncaught_holds_a_secret(form: str, level: int) -> None:
    logged = run(form, level)
    for told in ("Failed to parse headers", "it failed", "a line", "mind https://host", "ended by a fault"):
        assert told in logged
    assert logged.count("ValueError") >= 5
    assert ("a detail of a library" in logged) == (level == 10)


def test_json_is_an_object_a_line() -> None:
    entries = [json.loads(line) for line in run("json", 20).splitlines()]
    assert {"event", "level", "timestamp"} <= set.intersection(*map(set, entries))
    assert any("Traceback" in entry.get("exception", "") for entry in entries)


def test_no_entry_is_longer_than_it_has_to_be() -> None:
    assert max(map(len, run("json", 20).splitlines())) < 30_000
