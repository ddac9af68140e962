"""`towline.astream`: the same for asyncio."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import pytest

import towline
from tests.support import models
from tests.support.events import check_pull
from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.models import Model
from tests.support.registry import FaultRegistry

MB = 1_000_000


def stalling(registry: FaultRegistry) -> tuple[str, Model]:
    """A model that comes half the way and no further."""
    model = models.generate(24 * MB)
    registry.fail(blob(model.weights), Stall(after=2_500_001), times=None)
    return registry.add(model, "library/tiny"), model


def is_half_way(event: towline.Event) -> bool:
    """Whether a good part has come."""
    return isinstance(event, towline.Progress) and event.completed > 2 * MB


def nothing_runs() -> bool:
    """Whether every thread of the core has ended."""
    return not [thread for thread in threading.enumerate() if thread.name.startswith("towline")]


def test_yields_the_events_of_the_wire(registry: FaultRegistry) -> None:
    model = models.generate(4 * MB)
    name = registry.add(model, "library/tiny")

    async def main() -> list[towline.Event]:
        return [event async for event in towline.astream(name)]

    check_pull([event.wire() for event in asyncio.run(main())], model=model)
    assert nothing_runs()


def test_raises_what_the_pull_raises(registry: FaultRegistry) -> None:
    async def main() -> None:
        async for _ in towline.astream(f"{registry.host}/library/nothing"):
            pass

    with pytest.raises(towline.NotFound):
        asyncio.run(main())
    assert nothing_runs()


def test_the_event_loop_goes_on_meanwhile(registry: FaultRegistry) -> None:
    name, _ = stalling(registry)

    async def main() -> int:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(turn())
        async with aclosing(towline.astream(name)) as events:
            async for event in events:
                if is_half_way(event):
                    break
        task.cancel()
        return turns

    assert asyncio.run(main()) > 100


def test_closing_ends_the_pull(registry: FaultRegistry) -> None:
    name, _ = stalling(registry)

    async def main() -> None:
        async with aclosing(towline.astream(name)) as events:
            async for event in events:
                if is_half_way(event):
                    break
        assert nothing_runs()

    asyncio.run(main())
    registry.wait_idle()


def test_leaving_the_loop_ends_the_pull(registry: FaultRegistry) -> None:
    name, _ = stalling(registry)

    async def main() -> None:
        async for event in towline.astream(name):
            if is_half_way(event):
                break

    asyncio.run(main())
    registry.wait_idle()
    assert nothing_runs()


def test_cancelling_the_task_ends_the_pull(registry: FaultRegistry) -> None:
    name, _ = stalling(registry)
    half_way = asyncio.Event()

    async def watch() -> None:
        async for event in towline.astream(name):
            if is_half_way(event):
                half_way.set()

    async def main() -> None:
        task = asyncio.create_task(watch())
        await half_way.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert nothing_runs()

    asyncio.run(main())
    registry.wait_idle()


def test_one_that_leaves_does_not_end_the_others(registry: FaultRegistry) -> None:
    name, model = stalling(registry)

    async def watch() -> list[towline.Event]:
        return [event async for event in towline.astream(name)]

    async def main() -> list[towline.Event]:
        stays = asyncio.create_task(watch())
        async with aclosing(towline.astream(name)) as events:
            async for event in events:
                if is_half_way(event):
                    break
        registry.heal()
        registry.stop()
        registry.start()
        return await stays

    check_pull([event.wire() for event in asyncio.run(main())], model=model)


def test_one_that_was_never_read_costs_nothing(registry: FaultRegistry) -> None:
    async def main() -> None:
        await towline.astream("llama3.2").aclose()

    asyncio.run(main())
    assert nothing_runs()
