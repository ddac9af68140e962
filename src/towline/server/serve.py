"""The daemon's life: bind, serve, end."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from types import FrameType

import structlog

from towline import collector
from towline._version import __version__
from towline.errors import StoreError, TowlineError
from towline.puller import Puller
from towline.server import logs
from towline.server.app import create_app
from towline.server.listener import HttpServer, raise_file_limit
from towline.settings import Listen, Settings
from towline.store.store import Store

BACKLOG = 1024
"""Connections that the kernel keeps until they are taken: whoever finds it full waits a second or more to try again."""

DISK_THREADS = 8
"""Requests that may wait for the disk at once."""

SWEEP_SECONDS = 86400.0
"""Between two looks for what is left over in the store and has grown too old."""

END_SECONDS = 5.0
"""From the signal to stop until the process ends, whatever still waits for a disk that does not answer: without such
it takes a second or two.
"""

log = structlog.get_logger("towline.server")


def serve(settings: Settings) -> int:
    """Runs the daemon until SIGTERM or Ctrl-C; returns the exit code, which is 0. Call it from the main thread.

    Raises TowlineError where the address or the store cannot be used: the command line shows its sentence.
    """
    logs.configure(settings)
    raise_file_limit()
    collector.rest()
    with suppress(KeyboardInterrupt):  # before the signals' handlers stand
        asyncio.run(_run(settings))
    signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(_started_executor(DISK_THREADS))
    ending = _started_executor(1)  # as all others may wait for a disk by then
    sockets = bind(settings.listen)
    try:
        settings = replace(settings, listen=replace(settings.listen, port=sockets[0].getsockname()[1]))
        puller = Puller(settings)
        server = HttpServer(create_app(settings, puller, loopback=_is_loopback(sockets)))
        try:
            await asyncio.to_thread(_prepare, puller.store)
            await server.start(sockets)
            _say_where(settings, sockets)
            sweeping = asyncio.create_task(_sweep(puller.store))
            await stop.wait()
            sweeping.cancel()
            log.info("stopping")
        finally:
            # Both at once: the pulls' end is what lets their streams finish.
            await asyncio.gather(loop.run_in_executor(ending, puller.close), server.close())
    finally:
        for sock in sockets:
            sock.close()


def _say_where(settings: Settings, sockets: Sequence[socket.socket]) -> None:
    addresses = [_written(*sock.getsockname()[:2]) for sock in sockets]
    log.info(
        "listening",
        url=settings.listen.url,
        addresses=addresses,
        store=str(settings.models),
        version=__version__,
    )
    if not _is_loopback(sockets):
        registry = (
            "is served to them, unless TOWLINE_SERVE_REGISTRY=0"
            if settings.serve_registry
            else "is refused to them, unless TOWLINE_SERVE_REGISTRY=1"
        )
        log.info(
            f"other machines can reach this towline at {', '.join(addresses)}: its API is theirs too; "
            f"/v2/, its models as a registry, {registry}"
        )


def _prepare(store: Store) -> None:
    """Raises StoreError where there is nothing to serve; a store that can only be read is served as it is."""
    try:
        store.prepare()
    except StoreError as error:
        if not store.readable:
            raise
        log.warning("the store can only be read: it is served, and pulls of what is new will fail", reason=str(error))


async def _sweep(store: Store) -> None:
    """Now and then, for ever; the first time was when the store was prepared."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await asyncio.to_thread(store.sweep)
        except Exception:
            log.exception("what is left over in the store could not be cleared away")


def _started_executor(count: int) -> ThreadPoolExecutor:
    """So many threads for what waits for the disk, all started: later on the machine may have none to give, and a pool
    that fails to start one runs the work all the same, when whoever asked for it has gone. Raises TowlineError.
    """
    executor = ThreadPoolExecutor(count, thread_name_prefix="towline-disk")
    together = threading.Barrier(count)
    try:
        for _ in range(count):
            executor.submit(together.wait)
    except RuntimeError:
        together.abort()
        raise TowlineError("cannot start the threads of the daemon; raise the limit (ulimit -u, TasksMax=)") from None
    return executor


def _stop_on_signals(stop: asyncio.Event) -> None:
    """The first signal stops, in `END_SECONDS` at most; the next one, of someone who will not wait, has its usual
    effect.
    """
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def stopping() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGALRM, _leave)
        signal.setitimer(signal.ITIMER_REAL, END_SECONDS)
        stop.set()

    for number in signals:
        loop.add_signal_handler(number, stopping)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """Ends the process though a disk does not answer: what is in the store stands it, as it stands `kill -9`."""
    try:
        log.warning("the disk of the store does not answer; leaving all the same")
    finally:
        os._exit(0)


def bind(listen: Listen) -> list[socket.socket]:
    """A socket for each address that the host means, all on one port. Raises TowlineError."""
    try:
        found = socket.getaddrinfo(listen.host or None, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise TowlineError(
            f"cannot listen on {listen.host}: the host has no address; check OLLAMA_HOST or --host"
        ) from None
    # IPv4 first: it decides the port where the system chooses one.
    found.sort(key=lambda info: info[0] != socket.AF_INET)
    sockets: list[socket.socket] = []
    missing: _NoSuchAddress | None = None
    try:
        for family, kind, protocol, _, address in found:
            port = sockets[0].getsockname()[1] if sockets else listen.port
            try:
                sockets.append(_bind_one(family, kind, protocol, (address[0], port, *address[2:])))
            except _NoSuchAddress as error:
                missing = error
        if missing and not sockets:
            raise missing
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise TowlineError(_cannot_listen(listen, error)) from None
    return sockets


class _NoSuchAddress(OSError):
    """The machine lacks the address, or its family: IPv6 is often switched off."""


def _bind_one(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    try:
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _NoSuchAddress(error.errno, error.strerror) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise _NoSuchAddress(error.errno, error.strerror) from None
        raise
    return sock


def _cannot_listen(listen: Listen, error: OSError) -> str:
    reasons = {
        errno.EADDRINUSE: "the port is in use; stop what listens there, or choose another with OLLAMA_HOST or --host",
        errno.EACCES: "this user may not use the port; choose one above 1023 with OLLAMA_HOST or --host",
        errno.EADDRNOTAVAIL: "this machine does not have the address; check OLLAMA_HOST or --host",
    }
    reason = reasons.get(error.errno or 0, f"{error.strerror}; check OLLAMA_HOST or --host")
    return f"cannot listen on {_written(listen.host, listen.port)}: {reason}"


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(sockets: Sequence[socket.socket]) -> bool:
    addresses = (ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]) for sock in sockets)
    return all(address.is_loopback for address in addresses)
