"""Asking a registry what a model is."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from functools import partial

from towline.errors import InvalidManifest, NotFound, RegistryError, SourceBusy, SourceGone, SourceLied
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
from towline.registry.access import Access, Asking, check_status
from towline.registry.blob import RegistryBlob
from towline.registry.endpoints import Endpoint, endpoints, transport
from towline.registry.failures import host_of
from towline.registry.http import Call, HttpClient
from towline.registry.wire import Allowance
from towline.registry.words import MAX_WORDS_BYTES, Words, read_words, words_of
from towline.settings import Settings

_ACCEPT = ", ".join((DOCKER_MANIFEST, OCI_MANIFEST, OCI_INDEX, DOCKER_INDEX))
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 4.0
_REFUSED_PAUSE = 1.0

_REFUSALS_APART = 1.5
"""Seconds that count at most between two refusals: more is time in which this process did not run."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name means now: its manifest, and the endpoints that serve its blobs, best first."""

    name: ModelName
    manifest: Manifest
    endpoints: tuple[Endpoint, ...]
    served: set[str] = field(default_factory=set)
    """Hosts that have sent something to this pull, with their ports: if they refuse connections they are restarting."""


@dataclass(slots=True)
class Inquiry:
    """A question on its way, for whoever looks at it from another thread: how long it may take, how many bytes of
    manifests came, and what it waits for.
    """

    patience: Patience
    received: int = 0
    """A KiB counts, and nothing less: a drip is no progress."""
    trouble: str = "no registry answers"

    def pulse(self) -> Pulse:
        """What it does, at a glance."""
        return Pulse(self.received >> 10, waits=True)


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

        An endpoint that fails is passed over. Where none answers, all are asked again: for `refused_timeout` seconds if
        every one refuses the connection and the patience is not endless, else until `call` is cancelled. Raises
        NotFound if no endpoint has the model and one said so; InvalidManifest; RegistryError; Cancelled.
        """
        inquiry = inquiry or Inquiry(Patience(self._settings.stall_timeout))
        candidates = endpoints(name.host, self._settings)
        share = self._settings.stall_timeout / len(candidates)
        refusals = _Refusals(self._settings.refused_timeout)
        pause = _FIRST_PAUSE
        while True:
            failures: list[Exception] = []
            for index, endpoint in enumerate(candidates):
                try:
                    manifest = self._manifest(call, endpoint, name, Allowance(share), inquiry)
                except (SourceBusy, SourceGone, SourceLied, RegistryError, NotFound) as error:
                    failures.append(error)
                    continue
                others = (*candidates[:index], *candidates[index + 1 :])
                return Resolved(name, manifest, (endpoint, *others), {host_of(endpoint.base)})
            summary = _summed_up(name, failures)
            inquiry.trouble = str(summary)
            if not _may_be_cured(failures) or (refusals.last_too_long(failures) and not inquiry.patience.endless):
                raise summary
            asked = [error.retry_after or 0.0 for error in failures if isinstance(error, SourceBusy)]
            call.wait(max(*asked, pause * random.uniform(0.75, 1.25)))  # noqa: S311
            pause = min(pause * 2, _LONGEST_PAUSE if not refusals.begun else _REFUSED_PAUSE)

    def source(
        self, endpoint: Endpoint, name: ModelName, blob: Descriptor, served: set[str] | None = None
    ) -> RegistryBlob:
        """The blob as this endpoint has it; `served` is that of the `Resolved` for which it is wanted."""
        patience = self._settings.stall_timeout
        return RegistryBlob(self._access, endpoint, name.repository, blob, patience, served)

    def _manifest(
        self, call: Call, endpoint: Endpoint, name: ModelName, allowance: Allowance, inquiry: Inquiry
    ) -> Manifest:
        asking = Asking(call, endpoint, name.repository, {"Accept": _ACCEPT}, allowance)
        if name.digest is None:
            return self._fetched(asking, name, name.tag, inquiry)
        try:
            return self._fetched(asking, name, str(name.digest), inquiry)
        except NotFound:
            manifest = self._fetched(asking, name, name.tag, inquiry)
        if manifest.digest != name.digest:
            raise InvalidManifest(
                f"{endpoint.shown} has {name} with digest {manifest.digest}, not the pinned one; "
                "drop the digest to take what is there"
            )
        return manifest

    def _fetched(self, asking: Asking, name: ModelName, reference: str, inquiry: Inquiry) -> Manifest:
        raw = self._raw(asking, name, reference, inquiry)
        if reference.startswith("sha256:"):
            # A pin is the manifest's: an index, even one with this digest, would let another manifest in.
            _check_digest(raw, Digest.parse(reference), asking.endpoint)
        elif (entry := sole_entry(raw)) is not None:
            raw = self._raw(asking, name, str(entry), inquiry)
            _check_digest(raw, entry, asking.endpoint)
        return Manifest.parse(raw)

    def _raw(self, asking: Asking, name: ModelName, reference: str, inquiry: Inquiry) -> bytes:
        endpoint = asking.endpoint
        response = self._access.get(asking, endpoint.url(name.repository, "manifests", reference)).response
        words = words_of(response) if response.status not in (200, 206) else Words()
        if response.status == 404 or (response.status == 400 and "NAME_INVALID" in words.codes):
            raise NotFound(
                f"model {str(name)!r} not found at {endpoint.shown}; check its name and tag{words.unless_plain}"
            )
        check_status(response, f"the manifest of {name}", words)
        if (response.headers.get("Content-Encoding") or "").lower() not in ("", "identity"):
            raise InvalidManifest(f"{endpoint.shown} sends the manifest compressed, which was not asked for")
        try:
            raw = response.read(MAX_MANIFEST_BYTES, partial(_note, asking.allowance, inquiry))
        except SourceLied:
            raise InvalidManifest(
                f"{endpoint.shown} sends a manifest larger than {MAX_MANIFEST_BYTES >> 20} MiB; it is not a model"
            ) from None
        if (page := read_words(raw[:MAX_WORDS_BYTES])).web_page:
            raise InvalidManifest(f"{endpoint.shown} does not send the manifest of {name}{page}")
        return raw


def _note(allowance: Allowance, inquiry: Inquiry, count: int) -> None:
    """Bytes of a manifest came."""
    allowance.earn(count)
    inquiry.received += count


def _may_be_cured(failures: list[Exception]) -> bool:
    """Whether it is of any use to wait and ask again."""
    return any(isinstance(error, SourceBusy) for error in failures) and not any(
        isinstance(error, NotFound) for error in failures
    )


class _Refusals:
    """For how long every endpoint has refused connections."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._spent = 0.0
        self._since: float | None = None

    @property
    def begun(self) -> bool:
        """Whether they did the last time."""
        return self._since is not None

    def last_too_long(self, failures: list[Exception]) -> bool:
        """Notes a round of failures; whether there were refusals only for `timeout` seconds."""
        now = time.monotonic()
        if not all(error.refused for error in failures if isinstance(error, SourceBusy)):
            self._since, self._spent = None, 0.0
            return False
        if self._since is not None:
            self._spent += min(now - self._since, _REFUSALS_APART)
        self._since = now
        return self._spent >= self._timeout


def _check_digest(raw: bytes, wanted: Digest, endpoint: Endpoint) -> None:
    if Digest.of(raw) != wanted:
        raise InvalidManifest(
            f"{endpoint.shown} sends another manifest for digest {wanted}; pull again, or from elsewhere"
        )


def _summed_up(name: ModelName, failures: list[Exception]) -> Exception:
    """The one error that tells the most: a 404 first, then what waiting cannot cure, then the rest."""
    for error in failures:
        if isinstance(error, NotFound):
            return error
    for kind in (RegistryError, SourceGone, SourceLied, SourceBusy):
        for error in failures:
            if isinstance(error, InvalidManifest):
                return error
            if isinstance(error, kind):
                return RegistryError(f"cannot pull {name}: {error}")
    return RegistryError(f"cannot pull {name}: no endpoint is configured for {name.host}")
