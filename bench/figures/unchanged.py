"""A pull of a model that is here and has not changed, less the registry's own time for the manifest."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Sequence

from tests.support.daemon import Daemon
from tests.support.models import tiny

from bench.depot import Depot
from bench.pull import fresh_daemon, timed_pull
from bench.row import Row
from bench.workspace import Workspace
from towline.model.manifest import DOCKER_MANIFEST

REPOSITORY = "library/tiny"
REPEATS = 20
"""Pulls a round."""


def measure(work: Workspace) -> Sequence[Row]:
    """From docker-registry; pulls in turn with the manifest alone over a kept connection, as towline asks for it."""
    model = tiny()
    pulls: list[float] = []
    manifests: list[float] = []
    with Depot(work) as depot, fresh_daemon(work) as daemon:
        name = depot.hold(model, REPOSITORY)
        timed_pull(daemon, name, model)
        with contextlib.closing(http.client.HTTPConnection(depot.host)) as registry:
            for _ in range(REPEATS * work.scale.rounds):
                manifests.append(_manifest(registry) * 1000)
                pulls.append(_pull(daemon, name) * 1000)
        crowd = depot.hold(work.crowd, "library/crowd")
        timed_pull(daemon, crowd)
        again = [_pull(daemon, crowd) * 1000 for _ in range(work.scale.slow_rounds)]
    own = [pull - manifest for pull, manifest in zip(pulls, manifests, strict=True)]
    return [
        Row.of("manifest from docker-registry", "ms", manifests),
        Row.of("pull with nothing new", "ms", pulls),
        Row.of("pull with nothing new, beside the registry's time", "ms", own, target=5),
        Row.of(f"pull with nothing new, {work.scale.layers} layers", "ms", again, target=60),
    ]


def _manifest(registry: http.client.HTTPConnection) -> float:
    start = time.perf_counter()
    registry.request("GET", f"/v2/{REPOSITORY}/manifests/latest", headers={"Accept": DOCKER_MANIFEST})
    response = registry.getresponse()
    response.read()
    assert response.status == 200
    return time.perf_counter() - start


def _pull(daemon: Daemon, name: str) -> float:
    """Streamed, over a new connection, as clients pull; until the last line, which has to be success."""
    start = time.perf_counter()
    with daemon.pulling(name) as stream:
        body = stream._response.read()
    seconds = time.perf_counter() - start
    assert body.endswith(b'{"status":"success"}\n'), body[-200:]
    return seconds
