"""Where the core's threads meet an event loop: the one adapter through which everything asynchronous watches a pull."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

from towline.model.events import Event
from towline.watching import Watcher


class Changes:
    """Wakes the event loop when a watcher's thread says that something changed."""

    def __init__(self, watcher: Watcher) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._watcher = watcher
        watcher.on_change(self._notify)

    def _notify(self) -> None:
        # The loop may be closed already: then nobody waits any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)

    async def wait(self, seconds: float) -> None:
        """Returns at the next change, or after this time; never before others had their turn."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()

    async def batches(self) -> AsyncGenerator[Sequence[Event], None]:
        """All events as they come, those of one poll together, to the end of the pull, whether it failed or not.

        Each batch is what is newest when the last one has been dealt with: whoever is slow gets fewer events, and
        never more than one batch of them is in memory.
        """
        while True:
            finished = self._watcher.finished  # asked before the poll: what came with the end is then still polled
            if events := self._watcher.poll():
                yield events
            elif finished:
                return
            await self.wait(0 if finished else self._watcher.sample)
