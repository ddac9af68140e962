"""Real daemons over one store, and the clients that come to them, leave them and kill them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import DaemonFactory
from tests.support.daemon import Daemon, PullStream
from tests.support.exchanges import Exchange, blob, manifest
from tests.support.faults import Slow, Stall
from tests.support.models import Blob, Model, generate
from tests.support.pulling import eventually
from tests.support.registry import FaultRegistry
from towline.model.manifest import TEMPLATE_LAYER
from towline.model.name import ModelName
from towline.store.layout import Layout, staging_key
from towline.transfer.journal import journaled_bytes

MIB = 1 << 20
SIZE = 40 * MIB
MOST_AGAIN = 16 * MIB
"""What an interrupted download may fetch twice at most."""

EXACT = {"TOWLINE_CONNECTIONS_PER_BLOB": "1"}
"""One connection a blob: nothing is taken over, so what a registry sends is exact."""


@pytest.fixture(scope="module")
def model() -> Model:
    return generate(SIZE, seed=21)


@pytest.fixture
def name(registry: FaultRegistry, model: Model) -> str:
    return registry.add(model, "library/model")


@pytest.fixture
def journaled(store_path: Path, model: Model) -> Callable[[], int]:
    """How many bytes of the weights are on disk, by the journal."""
    path = str(Layout(store_path).staging / staging_key(model.weights.digest, model.weights.size) / "journal")
    return lambda: journaled_bytes(path, model.weights.size, model.weights.digest)


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Callers of pulls; those that are still there at the end go away."""
    with ExitStack() as stack:
        yield stack


def check_stored(store: Path, name: str, model: Model) -> None:
    layout = Layout(store)
    assert layout.manifest(ModelName.parse(name)).read_bytes() == model.manifest
    for each in model.blobs:
        assert Path(layout.blob(each.digest)).read_bytes() == each.data, f"{each} is stored with other bytes"


def check_nothing_left(store: Path) -> None:
    """But for what it keeps of whole blobs: which were verified, and their checksums."""
    own, checksums = Layout(store).own, Layout(store).checksums
    eventually(
        lambda: (
            not [
                path
                for path in own.rglob("*")
                if path.is_file() and path != own / "verified" and path.parent != checksums
            ]
        ),
        "every file of towline's own to go",
    )


def finish_all(streams: list[PullStream], model: Model) -> None:
    """Follows all of them side by side to their end, which has to be a success."""
    with ThreadPoolExecutor(len(streams)) as threads:
        list(threads.map(lambda stream: stream.finish(model=model), streams))


def follow(clients: ExitStack, daemon: Daemon, name: str) -> PullStream:
    return clients.enter_context(daemon.pulling(name))


def stop_one_in_the_middle(registry: FaultRegistry, each: Blob) -> Stall:
    """The blob's second segment stops after 5 MiB; what is asked for later stops at once."""
    stall = Stall(after=5 * MIB)
    registry.fail(blob(each), stall, times=None, skip=1)
    return stall


class TestOneDaemon:
    def test_ten_clients_of_one_model_fetch_each_byte_once(
        self,
        registry: FaultRegistry,
        daemon_factory: DaemonFactory,
        clients: ExitStack,
        store_path: Path,
        model: Model,
        name: str,
    ) -> None:
        stall = stop_one_in_the_middle(registry, model.weights)
        daemon = daemon_factory(environment=EXACT)
        streams = [follow(clients, daemon, name) for _ in range(10)]
        for stream in streams:
            stream.until_completed(21 * MIB)
        stall.release()
        finish_all(streams, model)
        assert registry.bytes_sent() == model.size
        assert len(registry.exchanges(manifest())) == 1
        check_stored(store_path, name, model)

    def test_two_models_that_share_a_layer_share_its_download(
        self, registry: FaultRegistry, daemon_factory: DaemonFactory, clients: ExitStack, model: Model, name: str
    ) -> None:
        other = Model.of([model.weights, Blob.of(TEMPLATE_LAYER, "other")])
        stall = Stall(after=MIB)
        registry.fail(blob(model.weights), stall, times=1)
        daemon = daemon_factory(environment=EXACT)
        one = follow(clients, daemon, name)
        one.until_completed(MIB)
        two = follow(clients, daemon, registry.add(other, "library/other"))
        two.until_completed(MIB)
        stall.release()
        one.finish(model=model)
        two.finish(model=other)
        assert registry.bytes_sent(model.weights) == model.weights.size

    def test_when_the_first_of_two_clients_leaves_the_download_goes_on(
        self, registry: FaultRegistry, daemon_factory: DaemonFactory, clients: ExitStack, model: Model, name: str
    ) -> None:
        stall = stop_one_in_the_middle(registry, model.weights)
        daemon = daemon_factory(environment=EXACT)
        one = follow(clients, daemon, name)
        one.until_completed(21 * MIB)
        two = follow(clients, daemon, name)
        two.until_completed(21 * MIB)
        one.close()
        stall.release()
        two.finish(model=model)
        assert registry.bytes_sent() == model.size

    def test_when_the_last_client_leaves_the_download_stops_and_the_next_fetches_the_rest(
        self,
        registry: FaultRegistry,
        daemon_factory: DaemonFactory,
        clients: ExitStack,
        model: Model,
        name: str,
        journaled: Callable[[], int],
    ) -> None:
        stop_one_in_the_middle(registry, model.weights)
        daemon = daemon_factory(environment=EXACT)
        both = [follow(clients, daemon, name) for _ in range(2)]
        for stream in both:
            stream.until_completed(21 * MIB)
        for stream in both:
            stream.close()
        registry.wait_idle()
        assert journaled() == 21 * MIB
        registry.heal()
        registry.reset()
        assert daemon.pull(name, model=model).first(model.weights) == 21 * MIB
        assert registry.bytes_sent() == model.weights.size - 21 * MIB


class TestTwoDaemons:
    def test_five_clients_each_fetch_each_byte_once(
        self,
        registry: FaultRegistry,
        daemon_factory: DaemonFactory,
        clients: ExitStack,
        store_path: Path,
        model: Model,
        name: str,
    ) -> None:
        stall = stop_one_in_the_middle(registry, model.weights)
        daemons = [daemon_factory(environment=EXACT) for _ in range(2)]
        streams = [follow(clients, daemons[number % 2], name) for number in range(10)]
        for stream in streams:
            stream.until_completed(21 * MIB)
        stall.release()
        finish_all(streams, model)
        assert registry.bytes_sent() == model.size
        assert len(registry.exchanges(manifest())) == 2
        check_stored(store_path, name, model)
        check_nothing_left(store_path)

    def test_with_many_connections_they_fetch_no_more_than_one_does(
        self, registry: FaultRegistry, daemon_factory: DaemonFactory, store_path: Path, model: Model, name: str
    ) -> None:
        daemons = [daemon_factory() for _ in range(2)]
        with ThreadPoolExecutor(10) as threads:
            list(threads.map(lambda number: daemons[number % 2].pull(name, model=model), range(10)))
        # To take over a part costs what was on its way.
        assert registry.bytes_sent() < model.size + MOST_AGAIN
        check_stored(store_path, name, model)

    def test_two_models_that_share_a_layer_share_its_download(
        self, registry: FaultRegistry, daemon_factory: DaemonFactory, clients: ExitStack, model: Model, name: str
    ) -> None:
        other = Model.of([model.weights, Blob.of(TEMPLATE_LAYER, "other")])
        other_name = registry.add(other, "library/other")
        stall = stop_one_in_the_middle(registry, model.weights)
        one, two = (follow(clients, daemon_factory(environment=EXACT), which) for which in (name, other_name))
        one.until_completed(21 * MIB)
        two.until_completed(21 * MIB)
        stall.release()
        one.finish(model=model)
        two.finish(model=other)
        assert registry.bytes_sent(model.weights) == model.weights.size

    @pytest.mark.parametrize("way", [Daemon.kill, Daemon.terminate], ids=["kill", "terminate"])
    def test_the_follower_takes_over_when_the_holder_is_gone(
        self,
        way: Callable[[Daemon], object],
        registry: FaultRegistry,
        daemon_factory: DaemonFactory,
        clients: ExitStack,
        store_path: Path,
        model: Model,
        name: str,
    ) -> None:
        registry.fail(blob(model.weights), Stall(after=5 * MIB), times=1, skip=1)
        holder, follower = (daemon_factory(environment=EXACT) for _ in range(2))
        follow(clients, holder, name).until_completed(21 * MIB)
        followers = [follow(clients, follower, name) for _ in range(3)]
        for stream in followers:
            stream.until_completed(21 * MIB)
        assert len(registry.blob_requests(model.weights)) == 2, "the follower asks for what the other fetches"
        way(holder)
        finish_all(followers, model)
        assert registry.bytes_sent(model.weights) == model.weights.size
        check_stored(store_path, name, model)

    def test_one_daemon_pulls_what_the_other_replaces(
        self, registry: FaultRegistry, daemon_factory: DaemonFactory, store_path: Path
    ) -> None:
        versions = [generate(MIB, seed=seed) for seed in range(3)]
        one, two = (daemon_factory() for _ in range(2))
        for daemon, version in zip((one, two, one), versions, strict=True):
            name = registry.add(version, "library/moving")
            with ThreadPoolExecutor(2) as threads:
                other = threads.submit((two if daemon is one else one).pull, name, model=version)
                daemon.pull(name, model=version)
                other.result()
            if version is not versions[-1]:
                for each in version.blobs:  # as if they had been pulled hours ago: younger ones are not removed
                    os.utime(store_path / "blobs" / each.digest.file_name, (1, 1))
        check_stored(store_path, name, versions[-1])
        assert {path.name for path in (store_path / "blobs").iterdir()} == {
            each.digest.file_name for each in versions[-1].blobs
        }


class TestInterrupted:
    """A daemon ends in the middle of a pull; the next one goes on."""

    @pytest.mark.parametrize("way", [Daemon.kill, Daemon.terminate], ids=["kill", "terminate"])
    def test_the_next_pull_fetches_exactly_what_is_not_on_disk(
        self,
        way: Callable[[Daemon], object],
        registry: FaultRegistry,
        daemon_factory: DaemonFactory,
        clients: ExitStack,
        store_path: Path,
        model: Model,
        name: str,
    ) -> None:
        stop_one_in_the_middle(registry, model.weights)
        daemon = daemon_factory(environment=EXACT)
        follow(clients, daemon, name).until_completed(21 * MIB)
        way(daemon)
        registry.heal()
        registry.reset()
        pull = daemon_factory(environment=EXACT).pull(name, model=model)
        assert pull.first(model.weights) == 21 * MIB
        assert registry.bytes_sent(model.weights) == model.weights.size - 21 * MIB
        check_stored(store_path, name, model)
        check_nothing_left(store_path)

    @pytest.mark.parametrize("way", [Daemon.kill, Daemon.terminate], ids=["kill", "terminate"])
    def test_with_many_connections_in_full_flow_little_is_fetched_again(
        self,
        way: Callable[[Daemon], object],
        registry: FaultRegistry,
        daemon_factory: DaemonFactory,
        clients: ExitStack,
        store_path: Path,
        model: Model,
        name: str,
        journaled: Callable[[], int],
    ) -> None:
        registry.fail(blob(model.weights), Slow(1.5 * MIB, after=2 * MIB), times=None)
        daemon = daemon_factory()
        follow(clients, daemon, name).until_completed(8 * MIB)
        way(daemon)
        registry.wait_idle()
        kept = journaled()
        assert 8 * MIB <= kept < SIZE, "it did not end in the middle"
        sent = registry.bytes_sent(model.weights)
        registry.heal()
        registry.reset()
        pull = daemon_factory(environment=EXACT).pull(name, model=model)
        assert pull.first(model.weights) == kept
        assert registry.bytes_sent(model.weights) == model.weights.size - kept
        assert sent + registry.bytes_sent(model.weights) <= model.weights.size + MOST_AGAIN
        check_stored(store_path, name, model)

    def test_sigterm_keeps_what_every_connection_has_received(
        self,
        registry: FaultRegistry,
        daemon_factory: DaemonFactory,
        clients: ExitStack,
        model: Model,
        name: str,
        journaled: Callable[[], int],
    ) -> None:
        registry.fail(blob(model.weights), Stall(after=5 * MIB + 77_777), times=None)
        daemon = daemon_factory(environment=EXACT)
        follow(clients, daemon, name).until_completed(5 * MIB)
        daemon.terminate()
        assert 5 * MIB <= journaled() <= 5 * MIB + 77_777
        kept = journaled()
        registry.heal()
        registry.reset()
        daemon_factory(environment=EXACT).pull(name, model=model)
        assert registry.bytes_sent(model.weights) == model.weights.size - kept

    def test_two_layers_in_flight_both_go_on(
        self, registry: FaultRegistry, daemon_factory: DaemonFactory, clients: ExitStack
    ) -> None:
        parts = generate(16 * MIB, layers=2, seed=22)
        layers = parts.layers[:2]
        name = registry.add(parts, "library/parts")
        registry.fail(lambda exchange: is_one_of(exchange, layers), Stall(after=3 * MIB), times=None)
        daemon = daemon_factory(environment=EXACT)
        stream = clients.enter_context(daemon.pulling(name, interleave=True))
        waited = {str(layer.digest) for layer in layers}
        for line in stream:
            if line.get("completed", 0) >= 3 * MIB:
                waited.discard(line["digest"])
            if not waited:
                break
        daemon.kill()
        registry.heal()
        registry.reset()
        pull = daemon_factory(environment=EXACT).pull(name, model=parts)
        for layer in layers:
            assert pull.first(layer) == 3 * MIB
            assert registry.bytes_sent(layer) == layer.size - 3 * MIB


def is_one_of(exchange: Exchange, blobs: tuple[Blob, ...]) -> bool:
    return any(blob(each)(exchange) for each in blobs)
