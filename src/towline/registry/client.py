"""Asking a registry what a model is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from towline.errors import InvalidManifest, NotFound, SourceLied
from towline.model.digest import Digest
from towline.model.manifest import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    sole_entry,
)
from towline.model.name import ModelName
from towline.patience import Patience, Pulse
from towline.redaction import forms_of, redact
from towline.registry.access import Access, Asking, check_status
from towline.registry.blob import RegistryBlob
from towline.registry.endpoints import Endpoint, endpoints, transport
from towline.registry.failures import host_of
from towline.registry.http import Call, HttpClient
from towline.registry.race import Race
from towline.registry.response import Response
from towline.registry.wire import Allowance
from towline.registry.words import MAX_WORDS_BYTES, Words, read_words, words_of
from towline.settings import Settings

_ACCEPT = ", ".join((DOCKER_MANIFEST, OCI_MANIFEST, OCI_INDEX, DOCKER_INDEX))
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name means now: its manifest, and the endpoints that serve its blobs, best first."""

    name: ModelName
    manifest: Manifest
    endpoints: tuple[Endpoint, ...]
    served: set[str] = field(default_factory=set)
    """Hosts that have sent something to this pull, with their ports: if they refuse connections they are restarting."""


class Inquiry:
    """A question on its way, for whoever looks at it from another thread: how long it may take, how much of manifests
    came, and what it waits for.
    """

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.trouble = "no registry answers"
        self._lock = threading.Lock()
        self._marks: dict[str, int] = {}

    def arrived(self, url: str, size: int, *, whole: bool = False) -> None:
        """So many bytes of what is at this address have come. A KiB counts, and a whole answer; a drip is no progress,
        and neither is what came before, in another try.
        """
        with self._lock:
            self._marks[url] = max(self._marks.get(url, 0), (size >> 10) + whole)

    def pulse(self) -> Pulse:
        """What it does, at a glance."""
        with self._lock:
            return Pulse(sum(self._marks.values()), waits=True)


class _Question(NamedTuple):
    """What one endpoint is asked, and in which conversation."""

    call: Call
    endpoint: Endpoint
    name: ModelName
    inquiry: Inquiry


class Registry:
    """The registries of the world as one process sees them. Safe to use from many threads; `close` it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = HttpClient(connections=4 * settings.connections, connect_timeout=settings.connect_timeout)
        self._access = Access(self._client, transport(settings))

    def call(self) -> Call:
        """A conversation for `resolve`, which another thread can cancel."""
        return self._client.call()

    def close(self) -> None:
        """Closes the idle connections."""
        self._client.close()

    def resolve(self, call: Call, name: ModelName, inquiry: Inquiry | None = None) -> Resolved:
        """Fetches and validates the manifest from the first endpoint that has it; `inquiry` tells how that goes.

        An endpoint that fails is passed over, and one that thinks is left alone while the next is asked. Where none
        answers, those that may later are asked again: for `refused_timeout` seconds if every one refuses the connection
        and the patience is not endless, else until `call` is cancelled. Raises NotFound if no endpoint has the model
        and one said so; InvalidManifest; RegistryError; Starved; Cancelled.
        """
        inquiry = inquiry or Inquiry(Patience(self._settings.stall_timeout))
        candidates = endpoints(name.host, self._settings)
        race = Race(
            name,
            candidates,
            lambda call, endpoint: self._manifest(_Question(call, endpoint, name, inquiry)),
            share=self._settings.stall_timeout / len(candidates),
            refused_timeout=self._settings.refused_timeout,
            inquiry=inquiry,
        )
        first, manifest = race.run(call, self.call)
        others = (endpoint for endpoint in candidates if endpoint is not first)
        return Resolved(name, manifest, (first, *others), {host_of(first.base)})

    def source(
        self,
        endpoint: Endpoint,
        name: ModelName,
        blob: Descriptor,
        served: set[str] | None = None,
        patience: Patience | None = None,
    ) -> RegistryBlob:
        """The blob as this endpoint has it; `served` is that of the `Resolved` for which it is wanted, `patience` that
        of the pull.
        """
        patience = patience or Patience(self._settings.stall_timeout)
        return RegistryBlob(self._access, endpoint, name.repository, blob, patience, served)

    def _manifest(self, question: _Question) -> Manifest:
        name, endpoint = question.name, question.endpoint
        if name.digest is None:
            return self._fetched(question, name.tag)
        try:
            return self._fetched(question, str(name.digest))
        except NotFound:
            manifest = self._fetched(question, name.tag)
        if manifest.digest != name.digest:
            raise InvalidManifest(
                f"{endpoint.shown} has {name} with digest {manifest.digest}, not the pinned one; "
                "drop the digest to take what is there"
            )
        return manifest

    def _fetched(self, question: _Question, reference: str) -> Manifest:
        endpoint = question.endpoint
        raw = self._raw(question, reference)
        if reference.startswith("sha256:"):
            # A pin is the manifest's: an index, even one with this digest, would let another manifest in.
            _check_digest(raw, Digest.parse(reference), endpoint)
        elif (entry := _read(sole_entry, raw, question)) is not None:
            raw = self._raw(question, str(entry))
            _check_digest(raw, entry, endpoint)
        return _read(Manifest.parse, raw, question)

    def _raw(self, question: _Question, reference: str) -> bytes:
        """The bytes of one manifest, by a request with an allowance of its own."""
        call, endpoint, name, inquiry = question
        asking = Asking(call, endpoint, name.repository, {"Accept": _ACCEPT}, Allowance.by(inquiry.patience))
        url = endpoint.url(name.repository, "manifests", reference)
        response = self._access.get(asking, url).response
        try:
            _check_answer(response, name, endpoint)
        except NotFound:
            inquiry.arrived(url, 0, whole=True)
            raise
        received = 0

        def landed(count: int) -> None:
            nonlocal received
            received += count
            asking.allowance.earn(count)
            inquiry.arrived(url, received)

        try:
            raw = response.read(MAX_MANIFEST_BYTES, landed)
        except SourceLied:
            raise InvalidManifest(
                f"{endpoint.shown} sends a manifest larger than {MAX_MANIFEST_BYTES >> 20} MiB; it is not a model"
            ) from None
        inquiry.arrived(url, received, whole=True)
        if (page := read_words(raw[:MAX_WORDS_BYTES], secrets=response.secrets)).web_page:
            raise InvalidManifest(f"{endpoint.shown} does not send the manifest of {name}{page}")
        return raw


def _check_answer(response: Response, name: ModelName, endpoint: Endpoint) -> None:
    """As far as its head tells. Raises NotFound, InvalidManifest, and what `check_status` does."""
    words = words_of(response) if response.status not in (200, 206) else Words()
    if response.status == 404 or (response.status == 400 and "NAME_INVALID" in words.codes):
        raise NotFound(f"model {str(name)!r} not found at {endpoint.shown}; check its name and tag{words.unless_plain}")
    check_status(response, f"the manifest of {name}", words)
    if (response.headers.get("Content-Encoding") or "").lower() not in ("", "identity"):
        raise InvalidManifest(f"{endpoint.shown} sends the manifest compressed, which was not asked for")


def _read(parse: Callable[[bytes], T], raw: bytes, question: _Question) -> T:
    """What a manifest says. Raises InvalidManifest, which names who sent it."""
    try:
        return parse(raw)
    except InvalidManifest as error:
        told = redact(str(error), forms_of(question.call.secrets))
        raise InvalidManifest(told.replace("the registry", question.endpoint.shown, 1)) from None


def _check_digest(raw: bytes, wanted: Digest, endpoint: Endpoint) -> None:
    if Digest.of(raw) != wanted:
        raise InvalidManifest(
            f"{endpoint.shown} sends another manifest for digest {wanted}; pull again, or from elsewhere"
        )
