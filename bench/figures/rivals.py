"""The same blob, fetched and verified by others, each beside towline in the same rounds from the same server."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.daemon import clean_environment
from tests.support.listener import unused_port
from tests.support.models import Blob, Model
from tests.support.server_process import ServerProcess

from bench.command import missing, timed
from bench.depot import Depot
from bench.origin import Origin
from bench.pull import pull_once
from bench.rounds import interleave, ratio
from bench.row import Row
from bench.workspace import Workspace, settle
from towline.model.manifest import OCI_MANIFEST

REPOSITORY = "library/big"

_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


def measure(work: Workspace) -> Sequence[Row]:
    """Two contests: at nginx, and at docker-registry for skopeo, which wants a registry."""
    return [*_at_nginx(work), *_at_docker_registry(work)]


def _at_nginx(work: Workspace) -> list[Row]:
    with Origin(work) as origin:
        name = origin.hold(work.big_model, REPOSITORY)
        url = origin.url(work.big_model, REPOSITORY)
        rivals: dict[str, tuple[str | None, Callable[[], float]]] = {
            "`curl`, then `openssl dgst -sha256`": (missing("curl", "openssl"), lambda: _curl(work, url)),
            "`aria2c -x16`, then the same": (missing("aria2c", "openssl"), lambda: _aria2(work, url)),
            "`ollama pull`": (missing("ollama"), lambda: _ollama(work, name)),
        }
        return _contest(work, "nginx", rivals, lambda: pull_once(work, name, work.big_model).wall)


def _at_docker_registry(work: Workspace) -> list[Row]:
    model = as_image(work.big_model)
    absent = missing("skopeo", "docker-registry")
    if absent:
        return [Row.absent("towline over `skopeo copy`", "×", absent, target=1.0)]
    with Depot(work) as depot:
        name = depot.hold(model, REPOSITORY)
        rivals: dict[str, tuple[str | None, Callable[[], float]]] = {
            "`skopeo copy` to an `oci:` layout": (None, lambda: _skopeo(work, name, "oci")),
            "`skopeo copy` to a `dir:`": (None, lambda: _skopeo(work, name, "dir")),
        }
        return _contest(work, "docker-registry", rivals, lambda: pull_once(work, name).wall)


def _contest(
    work: Workspace,
    where: str,
    rivals: dict[str, tuple[str | None, Callable[[], float]]],
    towline: Callable[[], float],
) -> list[Row]:
    present = {name: run for name, (absent, run) in rivals.items() if absent is None}
    results = interleave({"towline": towline, **present}, work.scale.rounds)
    rows = [Row.of(f"towline from {where}", "s", results["towline"])]
    for name, (absent, _) in rivals.items():
        if absent:
            rows.append(Row.absent(f"towline over {name}", "×", absent, target=1.0))
            continue
        value, low, high = ratio(results["towline"], results[name])
        seconds = f"{statistics.median(results[name]):.2f} s against {statistics.median(results['towline']):.2f} s"
        rows.append(Row(f"towline over {name}", "×", value, low, high, target=1.0, note=seconds))
    return rows


def as_image(model: Model) -> Model:
    """The same weights as an OCI image of one layer."""
    weights = model.weights
    rootfs = {"type": "layers", "diff_ids": [str(weights.digest)]}
    config = Blob.of(_OCI_CONFIG, json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}))
    layer = Blob(_OCI_LAYER, weights.content, weights.digest, weights.size)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor,
        "layers": [layer.descriptor],
    }
    return Model((layer,), config, json.dumps(manifest).encode())


def _curl(work: Workspace, url: str) -> float:
    folder = work.fresh("curl")
    blob = folder / "blob"
    seconds = timed(["curl", "-sSfo", blob, url], ["openssl", "dgst", "-sha256", blob])
    settle(folder)
    return seconds


def _aria2(work: Workspace, url: str) -> float:
    folder = work.fresh("aria2")
    # Sixteen ways, as -x16 allows; without preallocation, which costs it time on tmpfs.
    fetch: list[str | Path] = [
        "aria2c",
        "-x16",
        "-s16",
        "--file-allocation=none",
        "-q",
        "-d",
        folder,
        "-o",
        "blob",
        url,
    ]
    seconds = timed(fetch, ["openssl", "dgst", "-sha256", folder / "blob"])
    settle(folder)
    return seconds


def _skopeo(work: Workspace, name: str, form: str) -> float:
    folder = work.fresh("skopeo")
    target = f"{form}:{folder / 'image'}"
    seconds = timed(["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", target])
    settle(folder)
    return seconds


def _ollama(work: Workspace, name: str) -> float:
    """Through the API of an `ollama serve` that is started for it over an empty store, as towline's daemon is."""
    port = unused_port()
    folder = work.fresh("ollama")
    environment = {
        **clean_environment(folder / "home"),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(folder / "models"),
    }
    server = ServerProcess(["ollama", "serve"], port=port, log=folder / "log", environment=environment)
    asked = json.dumps({"model": name, "insecure": True, "stream": False})
    try:
        seconds = timed(["curl", "-sSf", f"http://127.0.0.1:{port}/api/pull", "-d", asked])
    finally:
        server.close()
        settle(folder)
    return seconds
