"""Blobs that lie on another host than the registry, behind signed addresses, tokens and TLS."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import DaemonFactory
from tests.real.stores import check_stored, holds, published
from tests.support.certificates import Authority
from tests.support.challenges import Bearer
from tests.support.components import require
from tests.support.daemon import Daemon
from tests.support.exchanges import blob, manifest
from tests.support.models import Blob, generate, tiny
from tests.support.nginx import Nginx
from tests.support.registry import FaultRegistry
from tests.support.relay import Relay
from towline.model.digest import Digest

MIB = 1 << 20
SIZE = 24 * MIB


@pytest.fixture
def daemon(lasting_daemon: Daemon) -> Daemon:
    """One daemon for all tests here; each has a model of its own."""
    return lasting_daemon


class ShortLived:
    """nginx behind a relay; the first address of each blob is good for a second or two, the next for an hour."""

    def __init__(self, nginx: Nginx, relay: Relay) -> None:
        self.addresses: dict[Digest, list[str]] = {}
        self._nginx = nginx
        self._relay = relay

    def hold(self, blob: Blob) -> None:
        self._nginx.hold(blob)

    def signed_url(self, digest: Digest) -> str:
        given = self.addresses.setdefault(digest, [])
        given.append(self._nginx.sign(f"/data/{digest.hex}", 3600 if given else 2))
        return f"http://{self._relay.host}{given[-1]}"

    def wait_until_expired(self, which: Blob) -> None:
        """Until nginx refuses the first address."""
        deadline = time.monotonic() + 20
        while self._status(self.addresses[which.digest][0]) != 403:
            assert time.monotonic() < deadline, "the address does not expire"
            time.sleep(0.05)

    def _status(self, target: str) -> int:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._nginx.port, timeout=5)) as connection:
            connection.request("HEAD", target)
            return connection.getresponse().status


class TestSignedAddresses:
    def test_blobs_come_from_where_the_registry_points(
        self, daemon: Daemon, registry: FaultRegistry, nginx: Nginx
    ) -> None:
        model = generate(SIZE, seed=2)
        registry.redirect_blobs_to(nginx)
        name = registry.add(model, "library/elsewhere")
        daemon.pull(name, model=model)
        check_stored(daemon.store, name, model)
        assert not registry.bytes_sent()
        answers = nginx.requests(model.weights)
        assert {status for status, _ in answers} <= {200, 206}
        assert sum(sent for _, sent in answers) >= model.weights.size

    def test_a_second_pull_asks_neither_for_an_address_nor_for_a_blob(
        self, daemon: Daemon, registry: FaultRegistry, nginx: Nginx
    ) -> None:
        registry.redirect_blobs_to(nginx)
        name = registry.add(tiny(3), "library/elsewhere")
        daemon.pull(name, model=tiny(3))
        before = nginx.requests()
        registry.reset()
        assert not daemon.pull(name, model=tiny(3)).fetched
        assert registry.exchanges(manifest())
        assert not registry.blob_requests()
        assert nginx.requests() == before

    def test_an_address_that_expires_in_the_middle_is_asked_for_again(
        self, daemon: Daemon, registry: FaultRegistry, nginx: Nginx
    ) -> None:
        model = generate(SIZE, seed=4)
        # Slow enough that the link has to be cut before the last byte.
        with Relay(nginx.port, rate=SIZE / 8) as relay:
            host = ShortLived(nginx, relay)
            registry.redirect_blobs_to(host)
            name = registry.add(model, "library/short-lived")
            with daemon.pulling(name) as stream:
                stream.until_completed(2 * MIB)
                relay.stall_all()
                host.wait_until_expired(model.weights)
                relay.rate = None
                relay.reset_all()
                relay.resume_all()
                stream.finish(model=model)
        check_stored(daemon.store, name, model)
        assert len(host.addresses[model.weights.digest]) > 1
        assert not nginx.violations()

    def test_an_address_that_never_was_good_is_an_error(
        self, daemon: Daemon, registry: FaultRegistry, nginx: Nginx, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        signed_url = nginx.signed_url
        monkeypatch.setattr(nginx, "signed_url", lambda digest: signed_url(digest, ttl=-60))
        registry.redirect_blobs_to(nginx)
        pull = daemon.pull(registry.add(tiny(5), "library/too-late"), success=False)
        assert pull.error is not None
        assert "refuses blob" in pull.error
        assert not holds(daemon.store, tiny(5).weights)


class TestTokens:
    def test_a_token_is_asked_for_and_goes_to_the_registry_alone(
        self, daemon: Daemon, registry: FaultRegistry, nginx: Nginx
    ) -> None:
        model = generate(SIZE, seed=6)
        registry.require(Bearer())
        registry.redirect_blobs_to(nginx)
        name = registry.add(model, "library/guarded")
        daemon.pull(name, model=model)
        check_stored(daemon.store, name, model)
        assert all("authorization" in each.headers for each in registry.exchanges(blob()) if each.status == 307)
        assert nginx.requests(model.weights)
        assert not nginx.violations()


class TestTls:
    @pytest.fixture
    def secure(self, authority: Authority) -> Iterator[FaultRegistry]:
        """A registry that shows a certificate of the tests' own authority."""
        with FaultRegistry(authority=authority) as secure:
            yield secure

    @pytest.fixture
    def secure_nginx(self, authority: Authority, tmp_path: Path) -> Iterator[Nginx]:
        """A blob host that does."""
        require("nginx")
        with Nginx(tmp_path / "secure-nginx", authority=authority) as nginx:
            yield nginx

    def test_an_authority_of_ones_own_is_trusted_through_ssl_cert_file(
        self, daemon_factory: DaemonFactory, authority: Authority, secure: FaultRegistry, secure_nginx: Nginx
    ) -> None:
        model = generate(SIZE, seed=7)
        secure.require(Bearer())
        secure.redirect_blobs_to(secure_nginx)
        secure.add(model, "library/private")
        daemon = daemon_factory(environment={**mirrored(secure), "SSL_CERT_FILE": str(authority.ca)})
        daemon.pull("models.example/library/private", model=model)
        check_stored(daemon.store, "models.example/library/private", model)
        assert not secure_nginx.violations()

    @pytest.mark.parametrize("trusted", ["the system's authorities", "another authority"])
    def test_a_registry_that_nobody_vouches_for_is_an_error_before_anything_is_sent(
        self, daemon_factory: DaemonFactory, secure: FaultRegistry, tmp_path: Path, trusted: str
    ) -> None:
        secure.add(tiny(8), "library/private")
        environment = mirrored(secure)
        if trusted == "another authority":
            environment["SSL_CERT_FILE"] = str(Authority.create(tmp_path / "other").ca)
        daemon = daemon_factory(environment=environment)
        for insecure in (False, True):
            request = {"model": "models.example/library/private", "insecure": insecure}
            answer = daemon.request("POST", "/api/pull", request)
            assert answer.status == 500
            assert f"the TLS certificate of 127.0.0.1:{secure.port} cannot be trusted" in answer.json["error"]
        assert not secure.exchanges()
        assert not published(daemon.store)

    def test_a_blob_host_that_nobody_vouches_for_is_an_error(
        self, daemon: Daemon, registry: FaultRegistry, secure_nginx: Nginx
    ) -> None:
        registry.redirect_blobs_to(secure_nginx)
        pull = daemon.pull(registry.add(tiny(9), "library/tiny"), success=False)
        assert pull.error is not None
        assert f"the TLS certificate of 127.0.0.1:{secure_nginx.port} cannot be trusted" in pull.error
        assert not secure_nginx.requests()
        assert not holds(daemon.store, tiny(9).weights)


def mirrored(registry: FaultRegistry) -> dict[str, str]:
    """The settings by which a name that is not loopback's leads to this registry."""
    return {"TOWLINE_MIRRORS": f"models.example={registry.url}"}
