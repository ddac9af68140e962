"""Where the core's threads meet an event loop: the one adapter through which everything asynchronous watches a pull."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from weakref import WeakKeyDictionary

from towline.model.events import Event
from towline.watching import Watcher

_ABREAST = 8
"""Watchers that poll in one turn of an event loop. Hundreds are woken at once when a step is reached, and each may have
a batch of lines to tell: whatever else the loop serves has its turn in between.
"""


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
        """Returns at the next change, or after this time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()

    async def batches(self) -> AsyncGenerator[Sequence[Event], None]:
        """All events as they come, those of one poll together, to the end of the pull, whether it failed or not.

        Each batch is what is newest when the last one has been dealt with: whoever is slow gets fewer events, and
        never more than one batch of them is in memory.
        """
        turnstile = _turnstiles.setdefault(self._loop, _Turnstile())
        while True:
            await turnstile.pass_through()
            finished = self._watcher.finished  # asked before the poll: what came with the end is then still polled
            if events := self._watcher.poll():
                yield events
            elif finished:
                return
            if not finished and (pause := self._watcher.sample):
                await self.wait(pause)


class _Turnstile:
    """Lets `_ABREAST` through in one turn of the event loop, the others in the next ones, in the order in which they
    came.
    """

    def __init__(self) -> None:
        self._queue: deque[asyncio.Future[None]] = deque()

    async def pass_through(self) -> None:
        """Returns when it is one's turn, in the next turn of the loop at the soonest."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._queue.append(turn)
        if len(self._queue) == 1:
            loop.call_soon(self._let_through)
        await turn

    def _let_through(self) -> None:
        for _ in range(min(_ABREAST, len(self._queue))):
            turn = self._queue.popleft()
            if not turn.done():  # whoever was cancelled while waiting
                turn.set_result(None)
        if self._queue:
            asyncio.get_running_loop().call_soon(self._let_through)


_turnstiles: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turnstile] = WeakKeyDictionary()
