"""A pull in a process of its own, that can be killed at any moment: `python -m tests.pull.process NAME`.

Settings come from the environment; every event goes out as a line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.support.events import Line
from tests.support.pulling import PATIENCE

ROOT = Path(__file__).parents[2]


class PullProcess:
    """One such process. A context manager: it is killed at the end if it still runs."""

    def __init__(self, models: Path, name: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.pull.process", name],
            cwd=ROOT,
            env={**os.environ, "OLLAMA_MODELS": str(models), "TOWLINE_CONNECTIONS_PER_BLOB": "1", **environment},
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """`kill -9`; when this returns, it is gone."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate()

    def finish(self) -> list[Line]:
        """Waits for the end of the pull; the lines that it said."""
        out, _ = self._process.communicate(timeout=PATIENCE)
        return [json.loads(line) for line in out.splitlines()]


def main() -> None:
    """Pulls the model that the command line names."""
    from towline.errors import TowlineError
    from towline.model.events import Failed, encode
    from towline.model.name import ModelName
    from towline.puller import Puller
    from towline.settings import Settings

    puller = Puller(Settings.from_environ(os.environ))
    try:
        for event in puller.join(ModelName.parse(sys.argv[1])).events():
            sys.stdout.buffer.write(encode(event))
            sys.stdout.buffer.flush()
    except TowlineError as error:
        sys.stdout.buffer.write(encode(Failed(str(error))))
    puller.close()


if __name__ == "__main__":
    main()
