"""A registry that counts what it is asked and fails in every way it is told to.

with FaultRegistry() as registry:
    name = registry.add(model, "library/tiny")        # 127.0.0.1:<port>/library/tiny:latest
    registry.fail(blob(model.weights), Reset(after=1 << 20), times=2)
    …
    assert registry.bytes_sent(model.weights) == model.weights.size
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from tests.support.certificates import Authority
from tests.support.challenges import Bearer, Challenge
from tests.support.exchanges import Exchange, Match, blob
from tests.support.faults import Fault
from tests.support.listener import Listener
from tests.support.models import Blob, Model
from tests.support.planted import PLANTED
from tests.support.wire import Answer
from towline.model.digest import Digest
from towline.model.manifest import DOCKER_MANIFEST


class BlobHost(Protocol):
    """Where a registry may send a client for the bytes."""

    def hold(self, blob: Blob) -> None:
        """Has the bytes to give from now on."""

    def signed_url(self, digest: Digest) -> str:
        """An address of the blob that expires."""


@dataclass
class Rule:
    """A fault and the requests that it meets: of those that match, it leaves `skip` alone and takes `times`."""

    match: Match
    fault: Fault
    times: int | None
    skip: int
    hits: int = 0
    """How many requests it has taken."""

    def takes(self, exchange: Exchange) -> bool:
        """Whether this request is one of them; counts it."""
        if (self.times is not None and self.hits >= self.times) or not self.match(exchange):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.hits += 1
        return True


class FaultRegistry:
    """A registry and, for others, a blob host with signed addresses. Every method may be called from any thread."""

    def __init__(self, *, authority: Authority | None = None, address: str = "127.0.0.1", port: int = 0) -> None:
        """With an authority it speaks TLS. `port` is any that is free, unless one is given."""
        self.violations: list[str] = []
        """What a client did that it must never do: credentials shown to a blob host."""
        self._tls = authority.server_context() if authority else None
        self._manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self._blobs: dict[Digest, Blob] = {}
        self._rules: list[Rule] = []
        self._log: list[Exchange] = []
        self._changed = threading.Condition()
        self._blob_host: BlobHost | None = None
        self._challenge: Challenge | None = None
        self._token_service: Bearer | None = None
        self._key = secrets.token_bytes(16)
        self._address = address
        self._listener = Listener(self, address, port)

    # What it holds

    def add(self, model: Model, repository: str, tag: str = "latest") -> str:
        """Holds the model; returns its whole name, this registry's host and port included."""
        self.put_manifest(repository, tag, model.manifest)
        for each in model.blobs:
            self.hold(each)
        return f"{self.host}/{repository}:{tag}"

    def put_manifest(self, repository: str, tag: str, raw: bytes, media_type: str = DOCKER_MANIFEST) -> None:
        """Answers these bytes, whatever they are, when asked for the manifest."""
        self._manifests[repository, tag] = (raw, media_type)
        self._manifests[repository, str(Digest.of(raw))] = (raw, media_type)

    def hold(self, blob: Blob) -> None:
        """Holds one blob."""
        self._blobs[blob.digest] = blob
        if self._blob_host:
            self._blob_host.hold(blob)

    # How it behaves

    def fail(self, match: Match, fault: Fault, *, times: int | None = 1, skip: int = 0) -> Rule:
        """From now on `fault` meets the requests that match: `times` of them (None: all) after the first `skip`.

        Several faults may meet one request; they apply in the order in which they were set.
        """
        rule = Rule(match, fault, times, skip)
        with self._changed:
            self._rules.append(rule)
        return rule

    def heal(self) -> None:
        """Nothing fails any more. Answers that are under way keep their faults."""
        with self._changed:
            self._rules.clear()

    def require(self, challenge: Challenge | None) -> None:
        """Wants credentials with every `/v2/` request; a Bearer without a realm gives its tokens at `/token` here."""
        self._challenge = challenge
        if isinstance(challenge, Bearer) and challenge.realm is None:
            self._token_service = challenge

    def issue_tokens_for(self, challenge: Bearer) -> None:
        """Is the realm of another registry's challenge."""
        challenge.realm = f"{self.url}/token"
        self._token_service = challenge

    def redirect_blobs_to(self, host: BlobHost) -> None:
        """Answers each blob's GET and HEAD with 307 to a signed address at `host`, which gets the blobs to hold."""
        self._blob_host = host
        for each in self._blobs.values():
            host.hold(each)

    def signed_url(self, digest: Digest, *, ttl: float = 3600) -> str:
        """This host's address of the blob, good for `ttl` seconds or until `expire_addresses`."""
        expires = str(int(time.time() + ttl))
        return f"{self.url}/data/{digest.hex}?expires={expires}&sig={self._sign(digest, expires)}"

    def expire_addresses(self) -> None:
        """Every signed address given out so far is good no more: 403."""
        self._key = secrets.token_bytes(16)

    # Whether it is there

    @property
    def port(self) -> int:
        """The same over stops and starts."""
        return self._listener.port

    @property
    def host(self) -> str:
        """`127.0.0.1:<port>`, where it has no other address."""
        return f"[{self._address}]:{self.port}" if ":" in self._address else f"{self._address}:{self.port}"

    @property
    def url(self) -> str:
        """Its base, without a slash at the end."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    def start(self) -> None:
        """Answers."""
        self._listener.start(self._tls)

    def stop(self) -> None:
        """Ends every connection and refuses new ones until `start`; the port stays reserved."""
        self._listener.stop()

    def close(self) -> None:
        """Stops for good. Raises what went wrong inside the registry itself, if anything did."""
        self._listener.close()
        if self._listener.errors:
            raise ExceptionGroup("the test registry failed", self._listener.errors)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What it was asked

    def exchanges(self, match: Match | None = None) -> list[Exchange]:
        """The log, oldest first: all of it, or what matches."""
        with self._changed:
            return [exchange for exchange in self._log if match is None or match(exchange)]

    def blob_requests(self, which: Blob | Digest | None = None) -> list[Exchange]:
        """Every GET of a blob, of this one or of any; redirects and refusals too."""
        return self.exchanges(blob(which))

    def bytes_sent(self, which: Blob | Digest | None = None) -> int:
        """Bytes of this blob, or of all, that went out."""
        return sum(exchange.sent for exchange in self.blob_requests(which) if exchange.status in (200, 206))

    def ranges_sent(self, which: Blob | Digest) -> list[tuple[int, int]]:
        """The pieces of the blob that went out, `[start, stop)`, sorted."""
        sent = [exchange for exchange in self.blob_requests(which) if exchange.sent and exchange.status in (200, 206)]
        return sorted((exchange.offset, exchange.offset + exchange.sent) for exchange in sent)

    def connections(self) -> int:
        """How many connections carried the requests of the log."""
        return len({exchange.client for exchange in self.exchanges()})

    def reset(self) -> None:
        """Forgets what it was asked."""
        with self._changed:
            self._log.clear()

    def wait_for(self, match: Match, *, count: int = 1, timeout: float = 20) -> list[Exchange]:
        """Waits until `count` requests that match have come; returns them. Raises AssertionError when they do not."""
        self.wait_until(lambda: len(self.exchanges(match)) >= count, f"{count} such requests", timeout)
        return self.exchanges(match)

    def wait_sent(self, size: int, which: Blob | Digest | None = None, *, timeout: float = 20) -> None:
        """Waits until so many bytes of the blob, or of all, have gone out."""
        self.wait_until(lambda: self.bytes_sent(which) >= size, f"{size} bytes sent", timeout)

    def wait_idle(self, *, timeout: float = 20) -> None:
        """Waits until no answer is under way."""
        self.wait_until(lambda: all(each.done for each in self._log), "every answer to end", timeout)

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 20) -> None:
        """Waits until something about the log is so; it is asked again whenever the log changes."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise AssertionError(f"waited {timeout} s for {what}; the log holds {self._log}")

    # For the listener

    def begin(self, exchange: Exchange) -> Answer:
        """Logs a request and makes its answer, faults included."""
        with self._changed:
            self._log.append(exchange)
            faults = [rule.fault for rule in self._rules if rule.takes(exchange)]
        answer = self._answer(exchange)
        for fault in faults:
            fault.apply(answer)
        exchange.status, exchange.offset = answer.status, answer.offset
        self.notify()
        return answer

    def notify(self) -> None:
        """An entry of the log has changed."""
        with self._changed:
            self._changed.notify_all()

    def _answer(self, exchange: Exchange) -> Answer:
        if exchange.kind == "token" and self._token_service:
            return self._token_service.issue(exchange)
        if exchange.path.startswith("/data/"):
            return self._signed_blob(exchange)
        if not exchange.path.startswith("/v2/"):
            return _error(404, "NOT_FOUND")
        if self._challenge and (header := self._challenge.refuse(exchange, self.url)):
            refusal = _error(401, "UNAUTHORIZED")
            refusal.headers["WWW-Authenticate"] = header
            return refusal
        if exchange.kind == "ping":
            return Answer.of(200, b"{}")
        if exchange.kind == "manifest":
            return self._manifest(exchange)
        return self._blob(exchange)

    def _manifest(self, exchange: Exchange) -> Answer:
        if found := self._manifests.get((exchange.repository, exchange.reference)):
            raw, media_type = found
            answer = Answer.of(200, raw, media_type)
            answer.headers["Docker-Content-Digest"] = str(Digest.of(raw))
            return answer
        return _error(404, "MANIFEST_UNKNOWN")

    def _blob(self, exchange: Exchange) -> Answer:
        found = self._blobs.get(exchange.digest) if exchange.digest else None
        if not found:
            return _error(404, "BLOB_UNKNOWN")
        if self._blob_host:
            answer = Answer.of(307, b"", "text/plain")
            answer.headers["Location"] = self._blob_host.signed_url(found.digest)
            return answer
        return _content(found, exchange)

    def _signed_blob(self, exchange: Exchange) -> Answer:
        if "authorization" in exchange.headers:
            self.violations.append(f"{exchange.method} {exchange.path} came with an Authorization header")
        found = self._blobs.get(exchange.digest) if exchange.digest else None
        expires = exchange.query.get("expires", "")
        if not found or not hmac.compare_digest(exchange.query.get("sig", ""), self._sign(found.digest, expires)):
            return Answer.of(403, b"<Error><Code>AccessDenied</Code></Error>", "application/xml")
        if int(expires) < time.time():
            return Answer.of(403, b"<Error><Code>ExpiredToken</Code></Error>", "application/xml")
        return _content(found, exchange)

    def _sign(self, digest: Digest, expires: str) -> str:
        return PLANTED + hmac.new(self._key, f"{digest} {expires}".encode(), hashlib.sha256).hexdigest()


def _content(blob: Blob, exchange: Exchange) -> Answer:
    whole = memoryview(blob.content)
    headers = {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": str(blob.digest),
        "Accept-Ranges": "bytes",
    }
    start, stop = 0, blob.size
    if exchange.range:
        first, last = exchange.range
        start, stop = first, min(blob.size, blob.size if last is None else last + 1)
        if start >= stop:
            return Answer(416, memoryview(b""), {"Content-Length": "0", "Content-Range": f"bytes */{blob.size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
    headers["Content-Length"] = str(stop - start)
    return Answer(206 if exchange.range else 200, whole[start:stop], headers, offset=start, whole=whole)


def _error(status: int, code: str) -> Answer:
    body = {"errors": [{"code": code, "message": code.replace("_", " ").lower(), "detail": None}]}
    return Answer.of(status, json.dumps(body).encode())
