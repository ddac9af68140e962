"""The package that most Python programs speak to Ollama with."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Iterator

import ollama
import pytest

from tests.support.daemon import Daemon
from tests.support.events import check_pull
from tests.support.exchanges import blob, manifest
from tests.support.faults import Status
from tests.support.models import Model, generate
from tests.support.registry import FaultRegistry

MIB = 1 << 20


@pytest.fixture
def model() -> Model:
    return generate(12 * MIB, seed=21)


@pytest.fixture
def client(daemon: Daemon) -> Iterator[ollama.Client]:
    """The package's own client, of this daemon."""
    client = ollama.Client(daemon.url)
    yield client
    client.close()  # type: ignore[no-untyped-call]


@pytest.fixture
def name(registry: FaultRegistry, model: Model) -> str:
    return registry.add(model, "library/client")


class TestOllamaPackage:
    def test_it_pulls_at_once(self, client: ollama.Client, name: str) -> None:
        assert client.pull(name).status == "success"

    def test_it_pulls_with_progress(self, client: ollama.Client, name: str, model: Model) -> None:
        events = list(client.pull(name, stream=True))
        lines = [event.model_dump(exclude_none=True) for event in events]
        check_pull(lines, model=model)

    def test_it_pulls_asynchronously(self, daemon: Daemon, name: str, model: Model) -> None:
        async def pull() -> tuple[str | None, list[dict[str, object]]]:
            client = ollama.AsyncClient(daemon.url)
            try:
                streamed = [e.model_dump(exclude_none=True) async for e in await client.pull(name, stream=True)]
                return (await client.pull(name)).status, streamed
            finally:
                await client.close()  # type: ignore[no-untyped-call]

        status, lines = asyncio.run(pull())
        assert status == "success"
        check_pull(lines, model=model)

    def test_it_lists_what_was_pulled(self, client: ollama.Client, name: str, model: Model) -> None:
        client.pull(name)
        (listed,) = client.list().models
        assert (listed.model, listed.size, listed.digest) == (name, model.size, model.digest.hex)

    def test_a_model_that_is_not_there_is_a_404(self, client: ollama.Client, registry: FaultRegistry) -> None:
        with pytest.raises(ollama.ResponseError, match="not found") as caught:
            client.pull(f"{registry.host}/library/none")
        assert caught.value.status_code == 404

    def test_it_is_a_404_too_where_progress_was_asked_for(self, client: ollama.Client, registry: FaultRegistry) -> None:
        with pytest.raises(ollama.ResponseError, match="not found") as caught:
            list(client.pull(f"{registry.host}/library/none", stream=True))
        assert caught.value.status_code == 404

    def test_a_name_that_is_none_is_a_400(self, client: ollama.Client) -> None:
        with pytest.raises(ollama.ResponseError, match="invalid model name") as caught:
            client.pull("../../etc/passwd")
        assert caught.value.status_code == 400

    def test_an_error_in_the_middle_of_a_stream_is_raised(
        self, client: ollama.Client, registry: FaultRegistry, name: str, model: Model
    ) -> None:
        registry.fail(blob(model.weights), Status(404), times=None)
        with pytest.raises(ollama.ResponseError, match="does not have blob"):
            collections.deque(client.pull(name, stream=True), maxlen=0)

    def test_a_registry_that_refuses_is_a_500(self, client: ollama.Client, registry: FaultRegistry, name: str) -> None:
        registry.fail(manifest(), Status(403), times=None)
        with pytest.raises(ollama.ResponseError, match="status 403") as caught:
            client.pull(name)
        assert caught.value.status_code == 500
