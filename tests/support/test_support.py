"""The instruments measure right: what the other tests believe is checked here against plain clients."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import gguf
import pytest

from tests.support import faults
from tests.support.certificates import Authority
from tests.support.challenges import Basic, Bearer, basic
from tests.support.components import require
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry, Login
from tests.support.events import Line, check_pull
from tests.support.exchanges import blob, both, covering, manifest
from tests.support.listener import unused_port
from tests.support.models import Blob, Model, crowd, generate, tiny, weights
from tests.support.nginx import Nginx
from tests.support.registry import FaultRegistry
from tests.support.relay import Relay
from towline.demo.generated import write_gguf
from towline.model.manifest import DOCKER_MANIFEST, MODEL_LAYER, Manifest

SIZE = 1 << 20


@pytest.fixture(scope="module")
def model() -> Model:
    return generate(SIZE)


def get(
    url: str,
    path: str,
    method: str = "GET",
    *,
    headers: dict[str, str] | None = None,
    authority: Authority | None = None,
) -> tuple[http.client.HTTPResponse, bytes]:
    """One request of a plain client; what came before an error is lost."""
    with connected(url, authority) as connection:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response, response.read()


@contextlib.contextmanager
def connected(url: str, authority: Authority | None = None) -> Iterator[http.client.HTTPConnection]:
    host = urlsplit(url).netloc
    connection = (
        http.client.HTTPSConnection(host, timeout=10, context=authority.client_context())
        if authority
        else http.client.HTTPConnection(host, timeout=10)
    )
    with contextlib.closing(connection):
        yield connection


def blob_path(blob: Blob) -> str:
    return f"/v2/library/tiny/blobs/{blob.digest}"


class TestModels:
    def test_a_generated_gguf_opens_in_the_gguf_reader(self, tmp_path: Path) -> None:
        path = tmp_path / "model.gguf"
        write_gguf(path, size=123_457, seed=1)
        assert path.stat().st_size == 123_457
        reader = gguf.GGUFReader(path)
        assert reader.fields["general.architecture"].contents() == "llama"
        assert {tensor.name for tensor in reader.tensors} == {"output_norm.weight", "token_embd.weight"}

    def test_models_are_the_same_each_time_and_differ_by_seed(self) -> None:
        assert tiny().manifest == tiny().manifest != tiny(1).manifest
        assert tiny().weights.data[:4] == b"GGUF"

    def test_towline_reads_the_manifests(self) -> None:
        model = crowd(20)
        manifest = Manifest.parse(model.manifest)
        assert [(each.digest, each.size) for each in manifest.blobs] == [
            (each.digest, each.size) for each in model.blobs
        ]

    def test_a_blob_from_a_file_is_the_blob_of_its_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(tiny().weights.data)
        mapped = Blob.from_file(MODEL_LAYER, path)
        assert (mapped, mapped.data) == (tiny().weights, tiny().weights.data)


class TestFaultRegistry:
    def test_it_serves_manifests_and_blobs_and_counts(self, registry: FaultRegistry, model: Model) -> None:
        assert registry.add(model, "library/tiny") == f"{registry.host}/library/tiny:latest"
        response, body = get(registry.url, "/v2/library/tiny/manifests/latest")
        assert (response.status, body) == (200, model.manifest)
        assert get(registry.url, f"/v2/library/tiny/manifests/{model.digest}")[1] == model.manifest
        whole, body = get(registry.url, blob_path(model.weights))
        assert (whole.status, body) == (200, model.weights.data)
        part, body = get(registry.url, blob_path(model.weights), headers={"Range": "bytes=10-19"})
        assert (part.status, part.headers["Content-Range"]) == (206, f"bytes 10-19/{SIZE}")
        assert body == model.weights.data[10:20]
        head, body = get(registry.url, blob_path(model.weights), "HEAD")
        assert (head.headers["Content-Length"], body) == (str(SIZE), b"")
        assert registry.bytes_sent(model.weights) == SIZE + 10
        assert registry.ranges_sent(model.weights) == [(0, SIZE), (10, 20)]
        assert len(registry.blob_requests()) == 2
        assert len(registry.exchanges(manifest())) == 2
        registry.reset()
        assert registry.exchanges() == []

    @pytest.mark.parametrize("path", ["/v2/library/none/manifests/latest", f"/v2/a/b/blobs/sha256:{'0' * 64}"])
    def test_what_it_does_not_have_is_404(self, registry: FaultRegistry, path: str) -> None:
        response, body = get(registry.url, path)
        assert (response.status, list(json.loads(body))) == (404, ["errors"])

    def test_one_connection_carries_many_requests(self, registry: FaultRegistry, model: Model) -> None:
        registry.add(model, "library/tiny")
        with connected(registry.url) as connection:
            for _ in range(5):
                connection.request("GET", blob_path(model.config))
                assert connection.getresponse().read() == model.config.data
        assert registry.connections() == 1

    def test_a_rule_takes_the_requests_it_was_made_for(self, registry: FaultRegistry, model: Model) -> None:
        registry.add(model, "library/tiny")
        rule = registry.fail(blob(model.weights), faults.Status(503, retry_after=7), times=2, skip=1)
        answers = [get(registry.url, blob_path(model.weights))[0] for _ in range(5)]
        assert [answer.status for answer in answers] == [200, 503, 503, 200, 200]
        assert answers[1].headers["Retry-After"] == "7"
        assert rule.hits == 2
        registry.fail(both(blob(), covering(100)), faults.Status(500), times=None)
        assert get(registry.url, blob_path(model.weights), headers={"Range": "bytes=0-99"})[0].status == 206
        assert get(registry.url, blob_path(model.weights), headers={"Range": "bytes=100-"})[0].status == 500
        registry.heal()
        assert get(registry.url, blob_path(model.weights))[0].status == 200

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (faults.Reset(), ConnectionResetError),
            (faults.Close(), http.client.RemoteDisconnected),
            (faults.Close(after=5000), http.client.IncompleteRead),
            (faults.WrongLength(by=10), http.client.IncompleteRead),
        ],
    )
    def test_connections_break(
        self, registry: FaultRegistry, model: Model, fault: faults.Fault, error: type[Exception]
    ) -> None:
        registry.add(model, "library/tiny")
        registry.fail(blob(), fault)
        with pytest.raises(error):
            get(registry.url, blob_path(model.weights))
        assert get(registry.url, blob_path(model.weights))[1] == model.weights.data

    def test_a_reset_comes_after_so_many_bytes(self, registry: FaultRegistry, model: Model) -> None:
        registry.add(model, "library/tiny")
        registry.fail(blob(), faults.Reset(after=5000))
        with connected(registry.url) as connection:
            connection.request("GET", blob_path(model.weights))
            with pytest.raises(ConnectionResetError), contextlib.closing(connection.getresponse()) as response:
                response.read()
        registry.wait_idle()
        assert registry.bytes_sent() == 5000

    @pytest.mark.parametrize(
        ("fault", "status", "length", "change"),
        [
            (faults.IgnoreRange(), 200, str(SIZE), lambda data: data),
            (faults.WrongRange(shift=1), 206, "1000", lambda data: data[500:1500]),
            (faults.WrongLength(by=-10), 206, "990", lambda data: data[500:1490]),
            (faults.Longer(by=3), 206, "1003", lambda data: data[500:1500] + b"xxx"),
            (faults.Shorter(by=3), 206, "997", lambda data: data[500:1497]),
            (faults.Flip(offset=500), 206, "1000", lambda data: bytes([data[500] ^ 1]) + data[501:1500]),
            (faults.Flip(offset=499), 206, "1000", lambda data: data[500:1500]),
            (faults.Chunked(), 206, None, lambda data: data[500:1500]),
            (faults.Undelimited(), 206, None, lambda data: data[500:1500]),
            (faults.Slow(rate=1e6, after=100), 206, "1000", lambda data: data[500:1500]),
            (faults.Delay(0.01), 206, "1000", lambda data: data[500:1500]),
            (faults.web_page(), 200, "59", lambda data: faults.web_page().body),
        ],
        ids=lambda value: type(value).__name__ if hasattr(value, "apply") else None,
    )
    def test_answers_lie(
        self,
        registry: FaultRegistry,
        model: Model,
        fault: faults.Fault,
        status: int,
        length: str | None,
        change: Callable[[bytes], bytes],
    ) -> None:
        registry.add(model, "library/tiny")
        registry.fail(blob(), fault)
        response, body = get(registry.url, blob_path(model.weights), headers={"Range": "bytes=500-1499"})
        assert (response.status, response.headers["Content-Length"]) == (status, length)
        assert body == change(model.weights.data)

    def test_a_body_comes_compressed(self, registry: FaultRegistry, model: Model) -> None:
        registry.add(model, "library/tiny")
        registry.fail(blob(), faults.Compressed())
        response, body = get(registry.url, blob_path(model.config))
        assert response.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(body) == model.config.data

    def test_a_stall_lasts_until_it_is_released(self, registry: FaultRegistry, model: Model) -> None:
        registry.add(model, "library/tiny")
        stall = faults.Stall(after=1000)
        registry.fail(blob(), stall)
        with connected(registry.url) as connection:
            connection.request("GET", blob_path(model.weights))
            response = connection.getresponse()
            start = response.read(1000)
            assert stall.reached.wait(5)
            assert registry.bytes_sent() == 1000
            stall.release()
            assert start + response.read() == model.weights.data

    def test_a_stalled_client_that_goes_is_let_go(self, registry: FaultRegistry, model: Model) -> None:
        registry.add(model, "library/tiny")
        registry.fail(blob(), faults.Stall())
        with connected(registry.url) as connection:
            connection.request("GET", blob_path(model.weights))
            registry.wait_for(blob())
        registry.wait_idle()

    def test_it_stops_with_a_stalled_client_and_comes_back_on_its_port(
        self, registry: FaultRegistry, model: Model
    ) -> None:
        registry.add(model, "library/tiny")
        registry.fail(blob(), faults.Stall(after=10))
        with connected(registry.url) as connection:
            connection.request("GET", blob_path(model.weights))
            registry.wait_sent(10)
            registry.stop()
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                connection.getresponse().read()
        with pytest.raises(ConnectionRefusedError):
            get(registry.url, "/v2/")
        registry.start()
        assert get(registry.url, "/v2/")[0].status == 200

    def test_blobs_are_elsewhere_under_addresses_that_expire(
        self, registry: FaultRegistry, blob_host: FaultRegistry, model: Model
    ) -> None:
        registry.redirect_blobs_to(blob_host)
        registry.add(model, "library/tiny")
        response, _ = get(registry.url, blob_path(model.weights))
        assert response.status == 307
        target = response.headers["Location"].removeprefix(blob_host.url)
        assert get(blob_host.url, target)[1] == model.weights.data
        assert get(blob_host.url, target.partition("?")[0])[0].status == 403
        assert (registry.bytes_sent(), blob_host.bytes_sent(), blob_host.violations) == (0, SIZE, [])
        get(blob_host.url, target, headers={"Authorization": "Bearer secret"})
        assert len(blob_host.violations) == 1
        blob_host.expire_addresses()
        assert get(blob_host.url, target)[0].status == 403
        late = blob_host.signed_url(model.weights.digest, ttl=-1).removeprefix(blob_host.url)
        assert get(blob_host.url, late)[0].status == 403

    def test_bearer_tokens_are_asked_for_spent_and_expire(self, registry: FaultRegistry, model: Model) -> None:
        registry.add(model, "library/tiny")
        challenge = Bearer(uses=2)
        registry.require(challenge)
        refused, _ = get(registry.url, blob_path(model.config))
        scope = "repository:library/tiny:pull"
        header = f'Bearer realm="{registry.url}/token",service="registry.test",scope="{scope}"'
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, header)

        def token(scope: str) -> str:
            answer = get(registry.url, f"/token?service=registry.test&scope={scope}")[1]
            return f"Bearer {json.loads(answer)['token']}"

        def status(authorization: str) -> int:
            return get(registry.url, blob_path(model.config), headers={"Authorization": authorization})[0].status

        good = token(scope)
        assert [status(good) for _ in range(3)] == [200, 200, 401]
        assert status(token("repository:library/other:pull")) == 401
        late = token(scope)
        challenge.expire()
        assert status(late) == 401

    def test_a_realm_elsewhere_wants_its_user(self, registry: FaultRegistry, blob_host: FaultRegistry) -> None:
        challenge = Bearer(username="me", password="secret")
        blob_host.issue_tokens_for(challenge)
        registry.require(challenge)
        refused, _ = get(registry.url, "/v2/")
        assert f'realm="{blob_host.url}/token"' in refused.headers["WWW-Authenticate"]
        path = "/token?service=registry.test"
        assert get(blob_host.url, path)[0].status == 401
        assert get(blob_host.url, path, headers={"Authorization": basic("me", "secret")})[0].status == 200

    def test_basic_credentials(self, registry: FaultRegistry) -> None:
        registry.require(Basic("me", "secret"))
        assert get(registry.url, "/v2/")[0].headers["WWW-Authenticate"] == 'Basic realm="test"'
        assert get(registry.url, "/v2/", headers={"Authorization": basic("me", "secret")})[0].status == 200

    def test_tls(self, authority: Authority, model: Model) -> None:
        with FaultRegistry(authority=authority) as registry:
            registry.add(model, "library/tiny")
            _, body = get(registry.url, blob_path(model.weights), authority=authority)
            assert body == model.weights.data
            registry.fail(blob(), faults.Reset(after=10))
            with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
                get(registry.url, blob_path(model.weights), authority=authority)
            registry.fail(blob(), faults.Stall(after=10))
            with connected(registry.url, authority) as connection:
                connection.request("GET", blob_path(model.weights))
                registry.wait_for(blob(), count=3)


class TestDockerRegistry:
    def test_a_model_comes_back_byte_for_byte(self, docker_registry: DockerRegistry) -> None:
        model = tiny()
        docker_registry.push(model, "library/round-trip", "1b")
        docker_registry.reset()
        path = "/v2/library/round-trip/manifests/1b"
        assert get(docker_registry.url, path, headers={"Accept": DOCKER_MANIFEST})[1] == model.manifest
        for each in model.blobs:
            assert get(docker_registry.url, f"/v2/library/round-trip/blobs/{each.digest}")[1] == each.data
        assert len(docker_registry.blob_requests()) == len(model.blobs)
        assert len(docker_registry.blob_requests(model.weights)) == 1

    def test_it_can_want_a_login(self, tmp_path: Path) -> None:
        require("docker-registry")
        require("htpasswd")
        with DockerRegistry(tmp_path / "registry", login=Login("me", "secret")) as registry:
            registry.push(tiny(), "library/tiny")
            path = "/v2/library/tiny/manifests/latest"
            assert get(registry.url, path)[0].status == 401
            allowed = {"Accept": DOCKER_MANIFEST, "Authorization": basic("me", "secret")}
            assert get(registry.url, path, headers=allowed)[1] == tiny().manifest


class TestNginx:
    def test_it_serves_signed_addresses_only(self, nginx: Nginx) -> None:
        layer = tiny().weights
        nginx.hold(layer)

        def status(url: str, **headers: str) -> int:
            return get(nginx.url, url.removeprefix(nginx.url), headers=headers)[0].status

        good = nginx.signed_url(layer.digest)
        assert get(nginx.url, good.removeprefix(nginx.url))[1] == layer.data
        assert status(good, Range="bytes=0-9") == 206
        assert status(good.partition("?")[0]) == 403
        assert status(good + "x") == 403
        assert status(nginx.signed_url(layer.digest, ttl=-10)) == 403
        assert status(nginx.plain_url(layer.digest)) == 200
        assert nginx.violations() == []
        status(good, Authorization="Bearer secret")
        assert nginx.violations() == [f"/data/{layer.digest.hex}"]

    def test_a_registry_sends_clients_there(self, registry: FaultRegistry, nginx: Nginx) -> None:
        registry.redirect_blobs_to(nginx)
        registry.add(tiny(), "library/tiny")
        response, _ = get(registry.url, blob_path(tiny().weights))
        target = response.headers["Location"].removeprefix(nginx.url)
        assert get(nginx.url, target)[1] == tiny().weights.data

    def test_tls(self, tmp_path: Path, authority: Authority) -> None:
        require("nginx")
        with Nginx(tmp_path / "nginx", authority=authority) as nginx:
            nginx.hold(tiny().weights)
            target = nginx.signed_url(tiny().weights.digest).removeprefix(nginx.url)
            assert get(nginx.url, target, authority=authority)[1] == tiny().weights.data


def lines_of(model: Model) -> list[Line]:
    """What a perfect pull of the model says."""
    layers = [
        {"status": f"pulling {each.digest.short}", "digest": str(each.digest), "total": each.size, "completed": done}
        for each in model.blobs
        for done in (0, each.size // 2, each.size)
    ]
    ends = ["verifying sha256 digest", "writing manifest", "success"]
    return [{"status": "pulling manifest"}, *layers, *({"status": status} for status in ends)]


class TestCheckPull:
    def test_a_perfect_pull_passes(self) -> None:
        pull = check_pull(lines_of(tiny()), model=tiny())
        assert pull.totals == {str(each.digest): each.size for each in tiny().blobs}
        assert pull.fetched == {each.digest for each in tiny().blobs}
        assert pull.first(tiny().weights) == 0

    def test_lines_may_come_again_as_a_sign_of_life(self) -> None:
        lines = lines_of(tiny())
        doubled = [line for line in lines[:-1] for _ in range(2)]
        check_pull([*doubled, lines[-1]], model=tiny())

    def test_a_failing_pull_passes_where_it_should_fail(self) -> None:
        lines = [*lines_of(tiny())[:5], {"error": "the registry is gone; try again"}]
        assert check_pull(lines, success=False, model=tiny()).error == "the registry is gone; try again"
        assert check_pull([{"error": "no such model"}], success=False).steps == []

    @pytest.mark.parametrize(
        ("spoil", "complaint"),
        [
            (lambda lines: lines.clear(), "empty"),
            (lambda lines: lines.pop(0), "first line"),
            (lambda lines: lines.pop(), "no 'success'"),
            (lambda lines: lines.pop(-2), "no 'writing manifest'"),
            (lambda lines: lines.append(lines[-1]), "more than once"),
            (lambda lines: lines.append({"status": "writing manifest"}), "goes back"),
            (lambda lines: lines.append({"error": "late"}), "is an error"),
            (lambda lines: lines.insert(1, {"status": "pulling config"}), "outside the contract"),
            (lambda lines: lines[1].pop("completed"), "not the fields"),
            (lambda lines: lines[1].update(status="pulling 0123"), "not the digest's"),
            (lambda lines: lines[1].update(digest="sha256:00"), "64 hex"),
            (lambda lines: lines[1].update(completed=False), "not an integer"),
            (lambda lines: lines[2].update(total=5, completed=5), "total was"),
            (lambda lines: lines[2].update(completed=10**9), "outside 0"),
            (lambda lines: lines[1].update(completed=9000), "fell from"),
            (lambda lines: lines.pop(3), "not whole yet"),
            (lambda lines: lines.pop(-4), "ended at"),
            (lambda lines: lines.insert(7, lines[3]), "closed before"),
            (lambda lines: lines.__setitem__(slice(1, 7), lines[4:7] + lines[1:4]), "manifest's order"),
            (lambda lines: lines.__delitem__(slice(1, 4)), "no line for"),
        ],
    )
    def test_anything_else_does_not(self, spoil: Callable[[list[Line]], object], complaint: str) -> None:
        lines = lines_of(tiny())
        spoil(lines)
        with pytest.raises(AssertionError, match=complaint):
            check_pull(lines, model=tiny())

    def test_layers_side_by_side_pass_where_they_were_asked_for(self) -> None:
        lines = lines_of(tiny())
        lines[1:7] = [lines[number] for number in (1, 4, 2, 5, 3, 6)]
        check_pull(lines, model=tiny(), interleaved=True)
        with pytest.raises(AssertionError, match="not whole yet"):
            check_pull(lines, model=tiny())

    def test_a_reason_why_nothing_moves_passes(self) -> None:
        lines = lines_of(tiny())
        lines.insert(2, {**lines[1], "status": f"{lines[1]['status']}: waiting, as 127.0.0.1 refuses"})
        lines.insert(1, {"status": "pulling manifest: waiting, as 127.0.0.1 refuses connections"})
        check_pull(lines, model=tiny())

    def test_an_error_that_leaks_does_not_pass(self) -> None:
        with pytest.raises(AssertionError, match="leaks"):
            check_pull([{"error": "no answer from http://127.0.0.1/data?expires=1&sig=2"}], success=False)


def test_the_registry_is_fast_enough_to_measure_with(registry: FaultRegistry) -> None:
    layer = weights(64 << 20)
    registry.hold(layer)
    found = []

    def fetch(first: int) -> None:
        last = first + (16 << 20) - 1
        found.append(get(registry.url, blob_path(layer), headers={"Range": f"bytes={first}-{last}"})[1])

    threads = [threading.Thread(target=fetch, args=(first,)) for first in range(0, layer.size, 16 << 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {hashlib.sha256(part).digest() for part in found} == {
        hashlib.sha256(layer.data[first : first + (16 << 20)]).digest() for first in range(0, layer.size, 16 << 20)
    }
    assert registry.bytes_sent(layer) == layer.size


class TestRelay:
    def test_bytes_come_through_after_a_round_trip(self, registry: FaultRegistry, model: Model) -> None:
        registry.add(model, "library/tiny")
        with Relay(registry.port, rate=100e6, connection_rate=10e6, delay=0.02) as relay:
            started = time.monotonic()
            assert get(f"http://{relay.host}", blob_path(model.weights))[1] == model.weights.data
            assert time.monotonic() - started > 0.04 + SIZE / 10e6 * 0.75
            assert relay.carried > SIZE

    def test_one_connection_is_slowed_and_the_next_is_not(self, registry: FaultRegistry, model: Model) -> None:
        registry.add(model, "library/tiny")
        with Relay(registry.port) as relay, connected(f"http://{relay.host}") as slow:
            relay.slow_one(1000, after=200_000)
            slow.request("GET", blob_path(model.weights))
            response = slow.getresponse()
            assert len(response.read(190_000)) == 190_000
            assert get(f"http://{relay.host}", blob_path(model.weights))[1] == model.weights.data
            assert [link.rate for link in relay.links] == [1000, None]
            assert relay.links[0].carried < SIZE
            response.close()

    def test_connections_stall_and_go_on_and_are_reset(self, registry: FaultRegistry, model: Model) -> None:
        registry.add(model, "library/tiny")
        with Relay(registry.port) as relay, connected(f"http://{relay.host}") as connection:
            connection.request("GET", blob_path(model.config))
            assert connection.getresponse().read() == model.config.data
            relay.stall_all()
            connection.request("GET", blob_path(model.config))
            relay.resume_all()
            assert connection.getresponse().read() == model.config.data
            relay.reset_all()
            with pytest.raises(ConnectionResetError):
                connection.sock.recv(1)

    def test_a_server_that_is_not_there_is_a_reset(self) -> None:
        with Relay(unused_port()) as relay, pytest.raises(ConnectionError):
            get(f"http://{relay.host}", "/v2/")


class TestDaemon:
    def test_a_daemon_starts_pulls_and_ends(
        self, registry: FaultRegistry, daemon_factory: Callable[..., Daemon], store_path: Path
    ) -> None:
        daemon = daemon_factory()
        name = registry.add(tiny(), "library/tiny")
        assert daemon.pull(name, model=tiny()).steps[-1] == "success"
        assert (store_path / "blobs" / tiny().weights.digest.file_name).read_bytes() == tiny().weights.data
        daemon.pull_quietly(name)
        assert registry.bytes_sent() == tiny().size
        assert daemon.pull(f"{registry.host}/library/none", success=False).error
        usage = daemon.usage()
        assert usage.peak_rss > 10 << 20
        assert usage.threads > 0
        assert usage.descriptors > 3
        assert daemon.terminate() == 0

    def test_a_caller_may_leave_early_and_a_daemon_may_be_killed(
        self, registry: FaultRegistry, daemon_factory: Callable[..., Daemon], model: Model
    ) -> None:
        daemon = daemon_factory()
        name = registry.add(model, "library/tiny")
        registry.fail(blob(model.weights), faults.Stall(after=1000), times=None)
        with daemon.pulling(name) as stream:
            stream.until(lambda line: line.get("completed") == 0)
        registry.wait_idle()
        daemon.kill()
        assert not daemon.running
