"""PyPI's `ollama` beyond the first pull: errors with their status, in the middle too, and many pulls side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import ollama
import pytest

from tests.real.stores import check_stored
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.events import check_pull
from tests.support.exchanges import blob
from tests.support.faults import Status, web_page
from tests.support.models import generate, tiny
from tests.support.registry import FaultRegistry

MB = 1_000_000

REFUSALS = [
    ("../../etc", 400, "invalid model name"),
    ("library//tiny", 400, "the namespace is empty"),
    ("{host}/library/nobody-has-this", 404, "not found"),
    ("{host}/library/broken", 500, "did not send a manifest but a web page"),
]
"""A name, and the status and some words of the answer to it."""


@pytest.fixture
def registry(registry: FaultRegistry) -> FaultRegistry:
    """One that has a web page for a manifest."""
    registry.put_manifest("library/broken", "latest", web_page().body)
    return registry


class TestClient:
    @pytest.fixture
    def client(self, lasting_daemon: Daemon) -> Iterator[ollama.Client]:
        """The client, told where the daemon is as OLLAMA_HOST tells it."""
        client = ollama.Client(host=lasting_daemon.host)
        yield client
        client.close()  # type: ignore[no-untyped-call]

    @pytest.mark.parametrize("stream", [True, False], ids=["streamed", "at once"])
    @pytest.mark.parametrize(("name", "status", "says"), REFUSALS)
    def test_an_error_is_a_response_error_with_its_status(
        self, client: ollama.Client, registry: FaultRegistry, name: str, status: int, says: str, stream: bool
    ) -> None:
        with pytest.raises(ollama.ResponseError, match=says) as caught:
            list(client.pull(name.format(host=registry.host), stream=stream))
        assert caught.value.status_code == status

    def test_an_error_in_the_middle_is_a_response_error_after_what_came(
        self, client: ollama.Client, registry: FaultRegistry
    ) -> None:
        registry.fail(blob(tiny(1).weights), Status(404), times=None)
        came = []
        with pytest.raises(ollama.ResponseError, match="does not have blob"):
            for each in client.pull(registry.add(tiny(1), "library/tiny"), stream=True):
                came.append(each.status)  # noqa: PERF401 - what came before the error counts
        assert came[0] == "pulling manifest"
        assert "success" not in came


class TestAsyncClient:
    def test_pulls_and_lists(self, lasting_daemon: Daemon, docker_registry: DockerRegistry) -> None:
        streamed, at_once = generate(12 * MB, seed=2), tiny(3)
        first = docker_registry.push(streamed, "library/async-streamed")
        second = docker_registry.push(at_once, "library/async-at-once")

        async def use(client: ollama.AsyncClient) -> None:
            check_pull(await streamed_pull(client, first), model=streamed)
            assert (await client.pull(second)).status == "success"
            listed = [each.model for each in (await client.list()).models]
            assert listed == [second, first]

        run(lasting_daemon, use)
        check_stored(lasting_daemon.store, first, streamed)
        check_stored(lasting_daemon.store, second, at_once)

    def test_pulls_side_by_side_share_one_download(self, lasting_daemon: Daemon, registry: FaultRegistry) -> None:
        model = generate(12 * MB, seed=4)
        name = registry.add(model, "library/shared")

        async def use(client: ollama.AsyncClient) -> None:
            for lines in await asyncio.gather(*(streamed_pull(client, name) for _ in range(10))):
                check_pull(lines, model=model)

        run(lasting_daemon, use)
        check_stored(lasting_daemon.store, name, model)
        # Ten would be ten times as much; a range that a faster connection takes over may come twice.
        assert registry.bytes_sent() < 2 * model.size

    @pytest.mark.parametrize(("name", "status", "says"), REFUSALS)
    def test_an_error_has_its_status(
        self, lasting_daemon: Daemon, registry: FaultRegistry, name: str, status: int, says: str
    ) -> None:
        async def use(client: ollama.AsyncClient) -> None:
            with pytest.raises(ollama.ResponseError, match=says) as streamed:
                await streamed_pull(client, name.format(host=registry.host))
            with pytest.raises(ollama.ResponseError, match=says) as at_once:
                await client.pull(name.format(host=registry.host))
            assert (streamed.value.status_code, at_once.value.status_code) == (status, status)

        run(lasting_daemon, use)


async def streamed_pull(client: ollama.AsyncClient, name: str) -> list[dict[str, object]]:
    """The lines of a pull."""
    return [each.model_dump(exclude_none=True) async for each in await client.pull(name, stream=True)]


def run(daemon: Daemon, use: Callable[[ollama.AsyncClient], Awaitable[None]]) -> None:
    """Lets a client of the daemon be used in an event loop of its own."""

    async def in_a_loop() -> None:
        client = ollama.AsyncClient(host=daemon.url)
        try:
            await use(client)
        finally:
            await client.close()  # type: ignore[no-untyped-call]

    asyncio.run(in_a_loop())
