"""Pulls inside the test's own process: every one is checked as the contract wants it, and leaves nothing open."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

from tests.support.events import Line, Pull, check_pull, check_sentence
from tests.support.models import Blob, Model
from towline.errors import TowlineError
from towline.model.digest import Digest
from towline.model.events import Event, Progress
from towline.model.name import ModelName
from towline.puller import Puller
from towline.settings import Settings
from towline.store.layout import Layout, staging_key
from towline.store.staging import staging_of
from towline.watching import Watcher

PATIENCE = 30.0
"""Seconds after which a test stops to wait for what should happen at once."""


class Pulling:
    """A `Puller` over the store at `models`. A context manager: at its end nothing may be left running or open.

    `changes` are fields of `Settings`. One connection a blob makes what a registry sends exact: nothing is taken over.
    """

    _open: ClassVar[set[Pulling]] = set()

    def __init__(self, models: Path, **changes: object) -> None:
        self.models = models
        self.layout = Layout(models)
        self.puller = Puller(replace(Settings(models=models), **changes))  # type: ignore[arg-type]
        self._open.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends everything; raises AssertionError for threads and files that are left. Any number of times."""
        self.puller.close()
        self._open.discard(self)
        if self._open:
            return  # what runs may be another's, who looks at its own end
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith("towline-")]
        assert not left, f"threads are left: {left}"
        assert not open_files(self.models), f"files are left open: {open_files(self.models)}"

    def start(self, name: str, *, interleave: bool = False) -> Following:
        """Joins or begins a pull; close what it returns, or have it finish."""
        parsed = ModelName.parse(name)
        return Following(self.puller.join(parsed), parsed, interleave=interleave)

    def pull(self, name: str, model: Model | None = None) -> Pull:
        """A pull that has to succeed, and leaves every byte of the model in the store."""
        pull = self.start(name).finish(model)
        if model is not None:
            self.check_stored(name, model)
        return pull

    def fail(self, name: str, model: Model | None = None) -> TowlineError:
        """A pull that has to fail; its error, the sentence of which is checked."""
        return self.start(name).fail(model)

    def check_stored(self, name: str, model: Model) -> None:
        """Asserts that the store holds the model, byte for byte."""
        assert self.layout.manifest(ModelName.parse(name)).read_bytes() == model.manifest
        for blob in model.blobs:
            assert Path(self.layout.blob(blob.digest)).read_bytes() == blob.data, f"{blob} is stored with other bytes"

    def age(self, *digests: Digest, by: float = 2 * 3600.0) -> None:
        """Makes blobs of the store look as if nothing had touched them for so many seconds."""
        for digest in digests:
            then = time.time() - by
            os.utime(self.layout.blob(digest), (then, then), follow_symlinks=False)

    def staged(self, blob: Blob) -> Path:
        """The folder in which the blob grows: of one that is larger than a block."""
        return self.layout.staging / staging_key(blob.digest, blob.size)

    def growing(self, blob: Blob) -> Path:
        """The file in which the blob grows, of whatever size."""
        return Path(staging_of(self.layout, blob.digest, blob.size).data_path)


class Following:
    """A pull under way, seen by one caller."""

    def __init__(self, watcher: Watcher, name: ModelName, *, interleave: bool = False) -> None:
        watcher.interleave = interleave
        self.watcher = watcher
        self.name = name
        self.lines: list[Line] = []
        self.completed: dict[str, int] = {}

    def close(self) -> None:
        """Goes away."""
        self.watcher.close()

    def until_completed(self, blob: Blob | str, count: int) -> Self:
        """Follows until so many bytes of the blob are there, or of what is told under this digest."""
        digest = blob if isinstance(blob, str) else str(blob.digest)
        self._until(lambda: self.completed.get(digest, -1) >= count, f"{count} bytes of {blob}")
        return self

    def until_committed(self) -> Self:
        """Follows until the manifest is there."""
        self._until(lambda: bool(self.completed), "the manifest")
        return self

    def until_said(self, words: str) -> Self:
        """Follows until a line's status holds these words."""
        self._until(lambda: any(words in line["status"] for line in self.lines), words)
        return self

    def until_over(self) -> TowlineError | None:
        """Follows to the end; the error, if it failed."""
        self._until(lambda: self.watcher.finished, "the end of the pull")
        while events := self.watcher.poll():
            self._note(events)
        self.watcher.close()
        return self.watcher.error

    def finish(self, model: Model | None = None) -> Pull:
        """Follows to the end, which has to be a success; what it said."""
        error = self.until_over()
        if error is not None:
            raise error
        return check_pull(self.lines, model=model, interleaved=self.watcher.interleave)

    def fail(self, model: Model | None = None) -> TowlineError:
        """Follows to the end, which has to be a failure; the error, which names the model."""
        error = self.until_over()
        assert error is not None, f"the pull succeeded: {self.lines[-1]}"
        lines = [*self.lines, {"error": str(error)}]
        check_pull(lines, success=False, model=model, interleaved=self.watcher.interleave)
        check_sentence(str(error))
        assert str(self.name).lower() in str(error).lower(), f"it does not name the model: {error}"
        return error

    def _note(self, events: list[Event]) -> None:
        for event in events:
            self.lines.append(event.wire())
            if isinstance(event, Progress):
                self.completed[str(event.digest)] = event.completed

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        self._note(self.watcher.poll())
        while not condition():
            assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}; it said {self.lines[-3:]}"
            assert not self.watcher.finished or condition(), (
                f"the pull ended before {what}: {self.watcher.error}, {self.lines[-3:]}"
            )
            self.watcher.wait(0.02)
            self._note(self.watcher.poll())


def open_files(folder: Path) -> list[str]:
    """Files under the folder that this process has open."""
    return [target for target in open_descriptors().values() if target.startswith(f"{folder}{os.sep}")]


def open_descriptors() -> dict[str, str]:
    """Every descriptor of this process, and what it stands for."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Waits until something is so that another thread or process brings about; AssertionError when it is not."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.01)
