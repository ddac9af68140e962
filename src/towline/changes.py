"""Where the core's threads meet an event loop: the one adapter through which everything asynchronous watches a pull."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from towline.watching import Watcher


class Changes:
    """Wakes the event loop when a watcher's thread says that something changed."""

    def __init__(self, watcher: Watcher) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        watcher.on_change(self._notify)

    def _notify(self) -> None:
        # The loop may be closed already: then nobody waits any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)

    async def wait(self, seconds: float) -> None:
        """Returns at the next change, or after this time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()
