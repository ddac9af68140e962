"""Asking a registry what a model is."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import msgspec

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
from towline.registry.http import Call, HttpClient
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


@dataclass(slots=True)
class Inquiry:
    """A question on its way, for whoever looks at it from another thread: how long it may take, how many bytes of
    manifests came, and what it waits for.
    """

    patience: Patience
    received: int = 0
    trouble: str = "no registry answers"

    def pulse(self) -> Pulse:
        """What it does, at a glance."""
        return Pulse(self.received, waits=True)


class Registry:
    """The registries of the world as one process sees them. Safe to use from many threads; `close` it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = HttpClient(connections=settings.connections, connect_timeout=settings.connect_timeout)
        self._access = Access(self._client, transport(settings))
        self._timeout = max(settings.stall_timeout / 2, 1.0)

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
        refusals = _Refusals(self._settings.refused_timeout)
        pause = _FIRST_PAUSE
        while True:
            failures: list[Exception] = []
            for index, endpoint in enumerate(candidates):
                try:
                    manifest = self._manifest(call, endpoint, name)
                except (SourceBusy, SourceGone, SourceLied, RegistryError, NotFound) as error:
                    failures.append(error)
                    continue
                return Resolved(name, manifest, (endpoint, *candidates[:index], *candidates[index + 1 :]))
            summary = _summed_up(name, failures)
            inquiry.trouble = str(summary)
            if not _may_be_cured(failures) or (refusals.last_too_long(failures) and not inquiry.patience.endless):
                raise summary
            asked = [error.retry_after or 0.0 for error in failures if isinstance(error, SourceBusy)]
            call.wait(max(*asked, pause * random.uniform(0.75, 1.25)))  # noqa: S311
            pause = min(pause * 2, _LONGEST_PAUSE if not refusals.begun else _REFUSED_PAUSE)

    def source(self, endpoint: Endpoint, name: ModelName, blob: Descriptor) -> RegistryBlob:
        """The blob as this endpoint has it."""
        return RegistryBlob(self._access, endpoint, name.repository, blob, self._timeout)

    def _manifest(self, call: Call, endpoint: Endpoint, name: ModelName) -> Manifest:
        if name.digest is None:
            return self._fetched(call, endpoint, name, name.tag)
        try:
            return self._fetched(call, endpoint, name, str(name.digest))
        except NotFound:
            manifest = self._fetched(call, endpoint, name, name.tag)
        if manifest.digest != name.digest:
            raise InvalidManifest(
                f"{endpoint.shown} has {name} with digest {manifest.digest}, not the pinned one; "
                "drop the digest to take what is there"
            )
        return manifest

    def _fetched(self, call: Call, endpoint: Endpoint, name: ModelName, reference: str) -> Manifest:
        raw = self._raw(call, endpoint, name, reference)
        if reference.startswith("sha256:"):
            # A pin is the manifest's: an index, even one with this digest, would let another manifest in.
            _check_digest(raw, Digest.parse(reference), endpoint)
        elif (entry := sole_entry(raw)) is not None:
            raw = self._raw(call, endpoint, name, str(entry))
            _check_digest(raw, entry, endpoint)
        return Manifest.parse(raw)

    def _raw(self, call: Call, endpoint: Endpoint, name: ModelName, reference: str) -> bytes:
        url = endpoint.url(name.repository, "manifests", reference)
        asking = Asking(call, endpoint, name.repository, {"Accept": _ACCEPT}, self._timeout)
        response = self._access.get(asking, url).response
        if response.status in (400, 404) and (response.status == 404 or _says_name_invalid(response.read(1 << 20))):
            raise NotFound(f"model {str(name)!r} not found at {endpoint.shown}; check its name and tag")
        check_status(response, f"the manifest of {name}")
        if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise InvalidManifest(f"{endpoint.shown} sends the manifest compressed, which was not asked for")
        try:
            return response.read(MAX_MANIFEST_BYTES)
        except SourceLied:
            raise InvalidManifest(
                f"{endpoint.shown} sends a manifest larger than {MAX_MANIFEST_BYTES >> 20} MiB; it is not a model"
            ) from None


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


class _OciError(msgspec.Struct):
    code: str = ""


class _OciErrors(msgspec.Struct):
    errors: list[_OciError] = []


def _says_name_invalid(body: bytes) -> bool:
    try:
        answer = msgspec.json.decode(body, type=_OciErrors)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return any(error.code == "NAME_INVALID" for error in answer.errors)


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
