"""What servers that are late, or gone for a while, cost a pull; and what slow disks and crowds cost others."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support import faults
from tests.support.daemon import Daemon
from tests.support.exchanges import blob
from tests.support.models import Model, generate, tiny
from tests.support.namespace import Network
from tests.support.registry import FaultRegistry

from bench.origin import Origin
from bench.pull import fresh_daemon, timed_pull
from bench.rounds import interleave
from bench.row import Row
from bench.workspace import Workspace
from towline.model.name import ModelName
from towline.puller import Puller
from towline.settings import Settings
from towline.store.layout import staging_key

SIZE = 40_000_000
LATE = (12.0, 20.0)
DOWN = 5.0
CROWD = 1100
FILES = 1024
REPOSITORY = "library/late"
NAME = "models.test"
DEAD = "2606:4700::1"


def measure(work: Workspace) -> Sequence[Row]:
    """Each once a round, beside the same without the fault."""
    model = generate(SIZE)
    rounds = work.scale.slow_rounds
    times = interleave(
        {
            "alone": lambda: _pulled(work, model, _nothing),
            "dies": lambda: _pulled(work, model, _host_dies),
            "restarts": lambda: _pulled(work, model, _restarts),
        },
        rounds,
    )
    alone = times["alone"]
    rows = [Row.of(f"a blob of {SIZE / 1e6:.0f} MB from a slow registry", "s", alone)]
    for key, words, target in (
        ("dies", "the blob host dies in the middle, and the registry names another: cost", 5.0),
        ("restarts", f"the registry is down for {DOWN:.0f} s in the middle: cost", DOWN + 5.0),
    ):
        costs = [slow - fast for slow, fast in zip(times[key], alone, strict=True)]
        rows.append(Row.of(words, "s", costs, target=target))
    rows += [_late(work, model, delay) for delay in LATE]
    return [*rows, *_addresses(work), *_disks(work), *_crowd(work)]


@contextlib.contextmanager
def _nothing(_: FaultRegistry, __: Model) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _host_dies(registry: FaultRegistry, model: Model) -> Iterator[None]:
    with FaultRegistry() as dying, FaultRegistry() as healthy:
        registry.redirect_blobs_to(dying)
        for host in (dying, healthy):
            host.fail(blob(model.weights), faults.Slow(20e6), times=None)

        def end() -> None:
            dying.wait_sent(SIZE // 4)
            registry.redirect_blobs_to(healthy)
            dying.stop()

        with _while_it_runs(end):
            yield


@contextlib.contextmanager
def _restarts(registry: FaultRegistry, _: Model) -> Iterator[None]:
    def restart() -> None:
        registry.wait_sent(SIZE // 4)
        registry.stop()
        time.sleep(DOWN)
        registry.start()

    with _while_it_runs(restart):
        yield


@contextlib.contextmanager
def _while_it_runs(act: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _pulled(
    work: Workspace, model: Model, fault: Callable[[FaultRegistry, Model], contextlib.AbstractContextManager[None]]
) -> float:
    with FaultRegistry() as registry, fresh_daemon(work) as daemon:
        name = registry.add(model, REPOSITORY)
        registry.fail(blob(model.weights), faults.Slow(20e6), times=None)
        with fault(registry, model):
            return timed_pull(daemon, name, model).wall


def _late(work: Workspace, model: Model, delay: float) -> Row:
    with FaultRegistry() as registry, fresh_daemon(work) as daemon:
        name = registry.add(model, REPOSITORY)
        registry.fail(blob(model.weights), faults.Delay(delay), times=None)
        wall = timed_pull(daemon, name, model).wall
        requests = len(registry.blob_requests(model.weights))
    note = f"{requests} requests for the weights; target: twice the wait, and 2 s"
    return Row.of(f"{delay:.0f} s before each first byte of a blob", "s", [wall], target=2 * delay + 2, note=note)


def _addresses(work: Workspace) -> Sequence[Row]:
    """In a network of its own, with one address that drops whatever is sent there in front of the registry's."""
    model = tiny()

    def pulled() -> list[float]:
        walls = []
        with FaultRegistry() as registry:
            registry.add(model, REPOSITORY)
            for host in ("127.0.0.1", NAME):
                settings = replace(Settings(models=work.fresh("store")), plain_http=(NAME,))
                with contextlib.closing(Puller(settings)) as puller:
                    walls.append(_finished(puller, f"{host}:{registry.port}/{REPOSITORY}"))
        return walls

    network = Network(work.fresh("network"), dead=[DEAD], names={NAME: [DEAD, "127.0.0.1"]})
    rounds = [network.run(pulled) for _ in range(work.scale.slow_rounds)]
    costs = [behind - alone for alone, behind in rounds]
    return [Row.of("a dead IPv6 address in front of the registry's good one: cost", "s", costs, target=0.5)]


def _disks(work: Workspace) -> Sequence[Row]:
    """A pull beside two whose disk takes its time to make a file last, in this process: nothing else can slow a sync
    down.
    """
    slow = [generate(5 << 20, seed=seed) for seed in (1, 2)]
    other = work.cut(400_000_000, seed=43)
    with FaultRegistry() as registry, Origin(work) as origin:
        slow_ones = [registry.add(model, f"library/slow-{seed}") for seed, model in enumerate(slow)]
        name = origin.hold(other, "library/other")

        def pull(beside: Sequence[str]) -> float:
            store = work.fresh("store")
            held = {str(store / "towline/staging" / staging_key(m.weights.digest, m.weights.size)) for m in slow}
            with contextlib.closing(Puller(Settings(models=store))) as puller, _slow_disk(held) as syncs:
                for each in beside:
                    puller.join(ModelName.parse(each))
                for _ in beside:
                    syncs.acquire()
                return _finished(puller, name)

        contestants = {"alone": functools.partial(pull, []), "beside": functools.partial(pull, slow_ones)}
        times = interleave(contestants, work.scale.slow_rounds)
    costs = [slowed - alone for slowed, alone in zip(times["beside"], times["alone"], strict=True)]
    return [
        Row.of("an unrelated pull of 400 MB", "s", times["alone"]),
        Row.of("the same beside two blobs that wait for a disk: cost", "s", costs, target=0.3),
    ]


@contextlib.contextmanager
def _slow_disk(folders: Collection[str]) -> Iterator[threading.Semaphore]:
    """Syncs of files in these folders begin at the end; each gives the semaphore back when it is asked for."""
    gate, waiting, sync = threading.Event(), threading.Semaphore(0), os.fsync

    def slow_sync(file: Any) -> None:
        if os.path.dirname(os.readlink(f"/proc/self/fd/{file}")) in folders:
            waiting.release()
            gate.wait()
        sync(file)

    os.fsync = slow_sync  # type: ignore[assignment]
    try:
        yield waiting
    finally:
        gate.set()
        os.fsync = sync


def _finished(puller: Puller, name: str) -> float:
    """Seconds of a pull in this process."""
    start = time.perf_counter()
    for _event in puller.join(ModelName.parse(name)).events():
        pass
    return time.perf_counter() - start


def _crowd(work: Workspace) -> Sequence[Row]:
    store = work.fresh("store")
    within = ("prlimit", f"--nofile={FILES}:{FILES}")
    answers: list[float] = []
    with Daemon(store, work.fresh("daemon"), within=within) as daemon, contextlib.ExitStack() as stack:
        for _ in range(CROWD):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port), timeout=20))
            with contextlib.suppress(ConnectionError):
                client.sendall(b"POST /api/pull HTTP/1.1\r\nHost: localh")
        for _ in range(20):
            start = time.perf_counter()
            assert daemon.request("GET", "/api/tags").status == 200
            answers.append((time.perf_counter() - start) * 1000)
        lines = len(Path(daemon._log).read_text().splitlines())
    return [
        Row.of(
            f"`/api/tags` beside {CROWD} half-open requests, {FILES} files", "ms", answers, target=100,
            note=f"{lines} lines in the log",
        )
    ]  # fmt: skip
