"""Pulls that are killed at every call that changes the store: `python -m tests.store.crash FOLDER OLD NEW`.

For each call there is a fresh store that holds the model OLD; a process pulls NEW into it and is killed (-9) right
before that call. Prints the name of the call and the path of what it left, a line each, until a pull is not killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from towline.model.name import ModelName
from towline.puller import Puller
from towline.settings import Settings

CALLS = ("mkdir", "link", "rename", "unlink", "rmdir", "fsync", "pwrite", "ftruncate", "utime")


def pull(models: Path, name: str) -> None:
    """Pulls in this process; returns when it is done. Raises what the pull does."""
    puller = Puller(Settings(models=models))
    for _ in puller.join(ModelName.parse(name)).events():
        pass
    puller.close()


def kill_before(count: int, report: int) -> None:
    """Has this process die right before so many-th call that changes something; writes the call's name first."""
    lock = threading.Lock()
    left = count

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            with lock:
                left -= 1
                if left == 0:
                    os.write(report, name.encode())
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, dying(name, getattr(os, name)))


def in_child(work: Callable[[int], None]) -> str:
    """Runs it in a process of its own; what it wrote before it ended, however it did."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            work(writer)
        except BaseException as error:
            os.write(writer, f"failed: {error!r}".encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        told = file.read().decode()
    os.wait()
    return told


def main() -> None:
    """Every call in turn."""
    folder, old, new = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    in_child(lambda _: pull(folder / "old", old))
    for count in range(1, 1000):
        models = folder / str(count)
        shutil.copytree(folder / "old", models)

        def work(writer: int, count: int = count, models: Path = models) -> None:
            kill_before(count, writer)
            pull(models, new)

        told = in_child(work)
        sys.stdout.write(f"{told or 'done'}\t{models}\n")
        if not told:
            return


if __name__ == "__main__":
    main()
