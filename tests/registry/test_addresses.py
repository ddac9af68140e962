"""Connecting to hosts of which some addresses are dead, and to none that a registry must not lead to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.challenges import Bearer
from tests.support.events import check_sentence
from tests.support.exchanges import blob
from tests.support.listener import unused_port
from tests.support.models import tiny
from tests.support.namespace import Network
from tests.support.registry import FaultRegistry
from towline.errors import Cancelled, SourceBusy, TowlineError
from towline.model.name import ModelName
from towline.registry.addresses import Address, Addresses, race
from towline.registry.client import Registry, Resolved
from towline.registry.guard import Guard, reach_of
from towline.registry.http import Call, HttpClient
from towline.registry.wire import Allowance
from towline.settings import Settings

MODEL = tiny()
NAME = "models.test"
DEAD_6, DEAD_4 = "2606:4700::1", "8.8.4.4"
PUBLIC = "8.8.8.8"


@pytest.fixture
def interrupt() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield theirs


def at(ip: str, port: int) -> Address:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    return Address(family, socket.SOCK_STREAM, 0, (ip, port))


def listening(ip: str = "127.0.0.1", port: int = 0) -> socket.socket:
    return socket.create_server((ip, port), family=socket.AF_INET6 if ":" in ip else socket.AF_INET)


class TestRace:
    @pytest.mark.parametrize("dead", [[DEAD_6], [DEAD_6, DEAD_4], [DEAD_4]])
    def test_dead_addresses_in_front_of_a_good_one_cost_a_moment(
        self, tmp_path: Path, interrupt: socket.socket, dead: list[str]
    ) -> None:
        def connected() -> list[Address]:
            with listening() as server:
                good = at("127.0.0.1", server.getsockname()[1])
                connection, winner, failed = race([*(at(ip, 80) for ip in dead), good], 60.0, interrupt)
                connection.close()
                assert winner == good
                return failed

        assert [each.ip for each in Network(tmp_path, dead=dead).run(connected)] == dead

    def test_one_that_refuses_is_passed_over_at_once(
        self, interrupt: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("towline.registry.addresses.HEAD_START", 600.0)
        with listening() as server:
            good = at("127.0.0.1", server.getsockname()[1])
            connection, winner, _ = race([at("127.0.0.1", unused_port()), good], 60.0, interrupt)
            connection.close()
        assert winner == good

    def test_the_first_that_answers_is_taken_alone(self, interrupt: socket.socket) -> None:
        with listening() as one, listening() as other:
            places = [at("127.0.0.1", each.getsockname()[1]) for each in (one, other)]
            connection, winner, _ = race(places, 60.0, interrupt)
            connection.close()
            other.settimeout(0)
            with pytest.raises(BlockingIOError):
                other.accept()
        assert winner == places[0]

    def test_a_connection_without_a_peer_will_break(self, interrupt: socket.socket) -> None:
        with listening() as server:
            connection, *_ = race([at("127.0.0.1", server.getsockname()[1])], 60.0, interrupt)
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60

    def test_where_all_refuse_that_is_what_is_told(self, interrupt: socket.socket) -> None:
        with pytest.raises(ConnectionRefusedError):
            race([at("127.0.0.1", unused_port()), at("127.0.0.1", unused_port())], 60.0, interrupt)

    def test_where_none_answers_that_is_told_in_time(self, tmp_path: Path, interrupt: socket.socket) -> None:
        with pytest.raises(TimeoutError):
            Network(tmp_path, dead=[DEAD_4, DEAD_6]).run(lambda: race([at(DEAD_6, 80), at(DEAD_4, 80)], 0.6, interrupt))

    def test_a_race_is_left_when_nobody_waits_any_longer(self, tmp_path: Path) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            threading.Timer(0.1, lambda: theirs.shutdown(socket.SHUT_RDWR)).start()
            with pytest.raises(Cancelled):
                Network(tmp_path, dead=[DEAD_4]).run(lambda: race([at(DEAD_4, 80)], 600.0, ours))


class TestRemembering:
    def connect(self, addresses: Addresses, port: int, interrupt: socket.socket) -> str:
        connection, address = addresses.connect(NAME, port, timeout=60.0, permitted=lambda _: True, interrupt=interrupt)
        connection.close()
        return address.ip

    def test_the_address_that_answered_is_asked_first_the_next_time(
        self, tmp_path: Path, interrupt: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def twice() -> list[str]:
            addresses = Addresses()
            with listening() as server:
                port = server.getsockname()[1]
                first = self.connect(addresses, port, interrupt)
                monkeypatch.setattr("towline.registry.addresses.HEAD_START", 600.0)
                return [first, self.connect(addresses, port, interrupt)]

        network = Network(tmp_path, dead=[DEAD_6], names={NAME: [DEAD_6, "127.0.0.1"]})
        assert network.run(twice) == ["127.0.0.1", "127.0.0.1"]

    def test_one_whose_connection_failed_afterwards_is_not_asked_first(
        self, tmp_path: Path, interrupt: socket.socket
    ) -> None:
        def again() -> list[str]:
            addresses = Addresses()
            with listening("::1") as server, listening("127.0.0.1", server.getsockname()[1]):
                port = server.getsockname()[1]
                first = self.connect(addresses, port, interrupt)
                addresses.distrust(next(each for each in addresses._standing if each.ip == first))
                return [first, self.connect(addresses, port, interrupt)]

        network = Network(tmp_path, names={NAME: ["::1", "127.0.0.1"]})
        assert set(network.run(again)) == {"::1", "127.0.0.1"}

    def test_one_that_was_dead_is_asked_after_those_that_nothing_is_known_of(
        self, tmp_path: Path, interrupt: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def third() -> str:
            addresses = Addresses()
            with listening("127.0.0.1") as server, listening("127.0.0.2", server.getsockname()[1]):
                port = server.getsockname()[1]
                first = self.connect(addresses, port, interrupt)
                addresses.distrust(next(each for each in addresses._standing if each.ip == first))
                monkeypatch.setattr("towline.registry.addresses.HEAD_START", 600.0)
                return self.connect(addresses, port, interrupt)

        network = Network(tmp_path, dead=[DEAD_6], names={NAME: [DEAD_6, "127.0.0.1", "127.0.0.2"]})
        assert network.run(third) in ("127.0.0.1", "127.0.0.2")

    def test_what_is_remembered_does_not_grow_with_the_hosts(self) -> None:
        addresses = Addresses()
        for port in range(5000):
            addresses.distrust(at("127.0.0.1", port))
        assert len(addresses._standing) <= 1024


class TestPulling:
    @pytest.mark.parametrize("redirected", [False, True])
    def test_a_dead_ipv6_address_in_front_of_a_good_ipv4_one_is_no_obstacle(
        self, tmp_path: Path, redirected: bool
    ) -> None:
        """The shape of the largest registry's blob host."""

        def pulled() -> bytes:
            with FaultRegistry() as registry, FaultRegistry() as blob_host:
                registry.add(MODEL, "library/tiny")
                named = blob_host if redirected else registry
                if redirected:
                    blob_host.hold(MODEL.weights)
                    place = blob_host.signed_url(MODEL.weights.digest).replace("127.0.0.1", NAME)
                    registry.fail(blob(), faults.Redirect(place), times=None)
                host = registry.host if redirected else f"{NAME}:{named.port}"
                with _client(plain_http=(NAME,)) as client:
                    resolved = _resolved(client, f"{host}/library/tiny")
                    return _weights(client, resolved)

        network = Network(tmp_path, dead=[DEAD_6], names={NAME: [DEAD_6, "127.0.0.1"]})
        assert network.run(pulled) == MODEL.weights.data

    def test_a_host_whose_every_address_is_dead_is_named(self, tmp_path: Path) -> None:
        def sentence() -> str:
            with _client(plain_http=(NAME,), connect_timeout=0.5) as client, client.call() as call:
                registry = f"{NAME}:80/library/tiny"
                with pytest.raises(SourceBusy) as caught:
                    _ask(call, f"http://{registry}")
                return str(caught.value)

        network = Network(tmp_path, dead=[DEAD_6, DEAD_4], names={NAME: [DEAD_6, DEAD_4]})
        assert network.run(sentence) == f"{NAME}:80 does not answer in time; check the network"


class TestCancelling:
    def cancelled(self, url: str, *, once: Callable[[], object]) -> None:
        client = HttpClient(connections=1, connect_timeout=600.0)
        call = client.call()

        def cancel() -> None:
            once()
            call.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with call, pytest.raises(Cancelled):
            _ask(call, url)
        canceller.join()
        client.close()

    def test_connecting_is_ended(self, tmp_path: Path) -> None:
        Network(tmp_path, dead=[DEAD_4]).run(
            lambda: self.cancelled(f"http://{DEAD_4}/", once=lambda: threading.Event().wait(0.1))
        )

    def test_a_handshake_is_ended(self) -> None:
        accepted: list[socket.socket] = []
        with listening() as server:
            port = server.getsockname()[1]
            self.cancelled(f"https://127.0.0.1:{port}/", once=lambda: accepted.append(server.accept()[0]))
        for each in accepted:
            each.close()


class TestGuard:
    @pytest.mark.parametrize(
        "ip",
        [
            "169.254.169.254", "169.254.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1",
            "100.100.100.200", "168.63.129.16", "::", "fe80::1", "fe80::1%eth0", "ff02::1", "fd00:ec2::254",
            "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "::169.254.169.254",
        ],
    )  # fmt: skip
    def test_an_address_where_no_registry_has_any_business_is_never_led_to(self, ip: str) -> None:
        assert reach_of(ip) == "never"
        assert not Guard(internal=True).permits(ip)

    @pytest.mark.parametrize(
        "ip",
        [
            "127.0.0.1", "127.255.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "::1",
            "fd00::1", "fc00::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:c0a8:101::",
            "fec0::1",
        ],
    )  # fmt: skip
    def test_an_address_of_a_private_network_is_led_to_from_one_alone(self, ip: str) -> None:
        assert Guard(internal=True).permits(ip)
        assert not Guard(internal=False).permits(ip)

    @pytest.mark.parametrize("ip", [PUBLIC, "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
    def test_a_public_one_is_led_to_from_anywhere(self, ip: str) -> None:
        assert Guard(internal=False).permits(ip)

    @pytest.mark.parametrize("kind", ["blob", "realm", "token", "manifest"])
    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "10.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "inner.test"]
    )
    def test_a_public_registry_does_not_lead_to_a_private_address(self, tmp_path: Path, kind: str, host: str) -> None:
        sentence = _led(tmp_path, kind, f"https://{host}:444")
        assert "private network" in sentence
        assert "TOWLINE_PLAIN_HTTP" in sentence

    @pytest.mark.parametrize("kind", ["blob", "realm"])
    @pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:169.254.169.254]", "metadata.test"])
    def test_not_even_a_private_registry_leads_to_a_metadata_service(
        self, tmp_path: Path, kind: str, host: str
    ) -> None:
        assert "metadata" in _led(tmp_path, kind, f"https://{host}:444", registry="10.0.0.1")

    @pytest.mark.parametrize("host", ["inner.test", "127.0.0.1"])
    def test_the_configuration_may_name_a_private_target(self, tmp_path: Path, host: str) -> None:
        assert not _led(tmp_path, "blob", f"http://{host}", plain=(host,))

    def test_the_configuration_names_no_metadata_service(self, tmp_path: Path) -> None:
        assert "metadata" in _led(tmp_path, "blob", "http://metadata.test", plain=("metadata.test",))

    def test_a_private_registry_may_lead_to_its_own_network(self, tmp_path: Path) -> None:
        assert not _led(tmp_path, "blob", "http://127.0.0.1", registry="10.0.0.1")

    def test_a_connection_that_is_kept_for_who_may_is_not_used_by_who_may_not(self, registry: FaultRegistry) -> None:
        client = HttpClient(connections=4, connect_timeout=5.0)
        with client.call() as call:
            _ask(call, f"{registry.url}/v2/")
            with pytest.raises(TowlineError, match="private network"):
                call.send("GET", f"{registry.url}/v2/", {}, allowance=Allowance(5.0), guard=Guard(internal=False))
        client.close()
        assert len(registry.exchanges()) == 1


def _led(tmp_path: Path, kind: str, target: str, *, registry: str = PUBLIC, plain: tuple[str, ...] = ()) -> str:
    """The sentence with which a pull fails whose registry leads to another server with a manifest, a blob, a login, or
    the redirect of that; empty where it is followed.
    """

    def follow() -> str:
        with FaultRegistry(address=registry) as asked, FaultRegistry() as inner:
            asked.add(MODEL, "library/tiny")
            inner.hold(MODEL.weights)
            place = target if target.startswith("https") else f"{target}:{inner.port}"
            if kind == "realm":
                asked.require(Bearer(realm=f"{place}/token"))
            elif kind == "token":
                asked.require(Bearer())
            if kind != "realm":
                signed = inner.signed_url(MODEL.weights.digest).removeprefix(inner.url)
                asked.fail(lambda exchange: exchange.kind == kind, faults.Redirect(f"{place}{signed}"), times=None)
            with _client(plain_http=(registry, *plain)) as client:
                try:
                    _weights(client, _resolved(client, f"{asked.host}/library/tiny"))
                except TowlineError as error:
                    assert not inner.exchanges()
                    check_sentence(str(error))
                    return str(error)
                assert inner.exchanges()
                return ""

    names = {"inner.test": ["127.0.0.1"], "metadata.test": ["169.254.169.254"]}
    addresses = [PUBLIC, "10.0.0.1", "169.254.169.254"]
    return Network(tmp_path, addresses=addresses, names=names).run(follow)


@contextlib.contextmanager
def _client(**changes: object) -> Iterator[Registry]:
    client = Registry(Settings(models=Path("/nowhere"), **changes))  # type: ignore[arg-type]
    try:
        yield client
    finally:
        client.close()


def _resolved(client: Registry, name: str) -> Resolved:
    with client.call() as call:
        return client.resolve(call, ModelName.parse(name))


def _weights(client: Registry, resolved: Resolved) -> bytes:
    blob = next(each for each in resolved.manifest.blobs if each.digest == MODEL.weights.digest)
    received = bytearray()
    buffer = memoryview(bytearray(1 << 20))
    source = client.source(resolved.endpoints[0], resolved.name, blob, resolved.served)
    with source.open(0, blob.size) as stream:
        while (count := stream.readinto(buffer)) != 0:
            received += buffer[: count or 0]
    return bytes(received)


def _ask(call: Call, url: str) -> None:
    call.send("GET", url, {}, allowance=Allowance(600.0)).close()
