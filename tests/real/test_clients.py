"""The package that most Python programs speak to Ollama with."""

from __future__ import annotations

import asyncio
import collections
import io
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import ollama
import pytest
from tqdm import tqdm

from tests.support.daemon import Daemon
from tests.support.events import check_pull
from tests.support.exchanges import blob, manifest
from tests.support.faults import Stall, Status
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


class Bar(tqdm):  # type: ignore[type-arg]
    """A bar that minds being drawn after it was closed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(file=io.StringIO(), **options)
        self.over = False

    def update(self, n: float | None = 1) -> bool | None:
        assert not self.over, f"{self.desc} is drawn again after it was closed, at {self.n} of {self.total}"
        return super().update(n)

    def close(self) -> None:
        self.over = True
        super().close()


def draw(pull: Iterator[ollama.ProgressResponse]) -> dict[str, Bar]:
    """What the package's `examples/pull.py` does with the events of a pull, to the letter, but for the bars' class."""
    current_digest = ""
    bars: dict[str, Bar] = {}
    for progress in pull:
        digest = progress.get("digest", "")
        if digest != current_digest and current_digest in bars:
            bars[current_digest].close()

        if not digest:
            print(progress.get("status"))  # noqa: T201
            continue

        if digest not in bars and (total := progress.get("total")):
            bars[digest] = Bar(total=total, desc=f"pulling {digest[7:19]}", unit="B", unit_scale=True)

        if completed := progress.get("completed"):
            bars[digest].update(completed - bars[digest].n)

        current_digest = digest
    return bars


@pytest.fixture
def reversed_layers(registry: FaultRegistry) -> Iterator[Model]:
    """A model of three layers, the first of which comes last: all others are whole before it goes on."""
    model = generate(12 * MIB, layers=3, seed=23)
    stall = Stall(after=MIB)
    registry.fail(blob(model.layers[0]), stall, times=None)

    def release() -> None:
        for each in model.blobs[1:]:
            registry.wait_sent(each.size, each)
        stall.release()

    releasing = threading.Thread(target=release)
    releasing.start()
    yield model
    releasing.join()


class TestLayersThatComeInAnotherOrder:
    def test_the_packages_own_example_draws_every_bar_to_its_end_and_none_twice(
        self, client: ollama.Client, registry: FaultRegistry, reversed_layers: Model
    ) -> None:
        name = registry.add(reversed_layers, "library/reversed")
        bars = draw(iter(client.pull(name, stream=True)))
        assert {digest: bar.n for digest, bar in bars.items()} == {
            str(each.digest): each.size for each in reversed_layers.blobs
        }
        assert all(bar.over for bar in bars.values())

    def test_a_page_that_shows_the_last_event_goes_from_0_to_100_once_a_layer(
        self, client: ollama.Client, registry: FaultRegistry, reversed_layers: Model
    ) -> None:
        events = client.pull(registry.add(reversed_layers, "library/reversed"), stream=True)
        shown = [(event.digest, (event.completed or 0) / event.total) for event in events if event.total]
        for digest, percent in itertools.groupby(shown, key=lambda each: each[0]):
            values = [value for _, value in percent]
            assert values == sorted(values), digest
            assert (values[0], values[-1]) == (0, 1), digest
        assert [digest for digest, _ in itertools.groupby(each[0] for each in shown)] == [
            str(each.digest) for each in reversed_layers.blobs
        ]


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
