"""`python -m bench.engine CLIENT STORE MIRROR`: the engine alone, without the daemon, over urllib3 or pycurl.

Pulls `library/big` from the mirror into an empty store and prints a `Run` as JSON.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
from tests.support.daemon import Usage

from towline.model.name import ModelName
from towline.puller import Puller
from towline.settings import Settings

MODEL = "big"


class Run(msgspec.Struct):
    """Seconds of one pull, wall and CPU of the process, and its VmHWM in bytes."""

    wall: float
    cpu: float
    peak: int


def puller(client: str, store: Path, mirror: str, environ: dict[str, str] | None = None) -> Puller:
    """A puller whose blobs come through this client; close it."""
    given = {"OLLAMA_MODELS": str(store), "TOWLINE_MIRRORS": f"registry.ollama.ai={mirror}", **(environ or {})}
    settings = Settings.from_environ(given)
    made = Puller(settings)
    if client == "pycurl":
        from bench.curl import CurlRegistry

        made._registry = CurlRegistry(settings)  # the seam has no setting: nothing but this ever changes it
    made.store.prepare()
    return made


def pull(engine: Puller) -> Run:
    """One pull of `library/big`."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in engine.join(ModelName.parse(MODEL)).events():
        pass
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Run(wall, cpu, Usage.of("self").peak_rss)  # type: ignore[arg-type]


def main(client: str, store: str, mirror: str) -> None:
    """See the module."""
    engine = puller(client, Path(store), mirror)
    try:
        run = pull(engine)
    finally:
        engine.close()
    print(msgspec.json.encode(run).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
