"""Locks where a file system has none (some shares and FUSE answer flock with ENOSYS or ENOLCK): files that their holder
keeps changing.

Whoever makes the file holds it, and writes into it who that is. On the same machine it is held for as long as that
process lives; of another machine's nothing can be asked, so it is held until it has not changed for `SILENT` seconds.
That is the one thing not guaranteed: a machine that stands still for so long, and goes on, may find another at work.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
import uuid

from towline import threads
from towline.files.confined import AnyPath, beside, create_file, rename, same_file, unlink

BEAT = 4.0
"""Seconds between two changes that a holder makes."""

SILENT = 20.0
"""Seconds without a change, by the looker's own clock, after which a holder on another machine is gone."""

_SETTLE = 0.2
"""Seconds after which a claim that was put over another's has been seen by whoever did the same at that moment."""

_MAX_BYTES = 512
_MAX_SEEN = 10_000


def write(file: int) -> None:
    """Writes into the file, which this process has just made, who holds it, and keeps changing it. Raises OSError, and
    Starved where there is no thread for that.
    """
    _heart.add(file, _who())


def forget(file: int) -> None:
    """Ends that, before the file is closed; any file may be given."""
    _heart.remove(file)


def is_claimed(file: int) -> bool:
    """Whether a holder who goes by this module has written into it."""
    return len(_told(os.pread(file, _MAX_BYTES, 0))) == _FIELDS


def overtake(path: AnyPath, file: int) -> int | None:
    """Takes a claim whose holder is gone: the new file, open, with what `write` does to it done; None where it is held.

    `file` is the one that was found at `path`. Raises OSError, Starved.
    """
    if not _is_abandoned(path, file):
        return None
    mine = beside(path)
    taken = create_file(mine)
    try:
        write(taken)
        rename(mine, path)
        time.sleep(_SETTLE)
        if same_file(taken, path):
            return taken
    except BaseException:
        with contextlib.suppress(OSError):
            unlink(mine)
        close(taken)
        raise
    close(taken)
    return None


def close(file: int) -> None:
    """Closes a file that may be a claim."""
    forget(file)
    os.close(file)


# Who holds one: machine, process, when that began, a ticket; and how often it has been changed, counted up.

_FIELDS = 5


def _who() -> str:
    pid = os.getpid()
    return f"{_machine() or '-'} {pid} {_began(pid) or '-'} {uuid.uuid4().hex}"


def _told(raw: bytes) -> list[str]:
    return raw.decode("ascii", "replace").split()


@functools.cache
def _machine() -> str:
    """This start of this machine, and the name space in which process ids mean something; empty where it is untold."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When the process began, in the machine's own count; empty where that is not told."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode("ascii")
    except (OSError, IndexError):
        return ""


def _lives(pid: int, began: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # it is another user's
    now = _began(pid)
    return not now or now == began


_seen: dict[str, tuple[object, float]] = {}
_seen_lock = threading.Lock()


def _is_abandoned(path: AnyPath, file: int) -> bool:
    try:
        found, raw = os.fstat(file), os.pread(file, _MAX_BYTES, 0)
    except OSError:
        return False  # it was removed since it was opened
    told = _told(raw)
    if len(told) == _FIELDS and told[0] == _machine() and told[1].isdigit():
        return not _lives(int(told[1]), told[2])
    sign, key, now = (found.st_ino, found.st_mtime_ns, raw), os.fspath(path), time.monotonic()
    with _seen_lock:
        before, since = _seen.get(key, (None, now))
        if before == sign and now - since >= SILENT:
            del _seen[key]
            return True
        if len(_seen) >= _MAX_SEEN:
            _seen.clear()
        _seen[key] = (sign, since if before == sign else now)
    return False


class _Heart:
    """Changes every claim of this process now and then, on a thread that is there while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._held: dict[int, str] = {}
        self._beats = 0
        self._thread: threading.Thread | None = None

    def add(self, file: int, who: str) -> None:
        with self._lock:
            _change(file, who, self._beats)
            if self._thread is None:
                self._thread = threads.start(self._beat, "towline-claims")
            self._held[file] = who

    def remove(self, file: int) -> None:
        with self._lock:
            if self._held.pop(file, None) is None or self._held:
                return
            thread, self._thread = self._thread, None
            self._lock.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(BEAT)

    def _beat(self) -> None:
        with self._lock:
            while self._thread is threading.current_thread():
                self._lock.wait(BEAT)
                self._beats += 1
                for file, who in self._held.items():
                    with contextlib.suppress(OSError):
                        _change(file, who, self._beats)


def _change(file: int, who: str, beats: int) -> None:
    os.pwrite(file, f"{who} {beats:012d}\n".encode("ascii"), 0)


_heart = _Heart()


def _begin_anew() -> None:
    """In a child that was forked: what the parent holds is not its to keep, and it has none of the threads that do, or
    that may have held these locks.
    """
    global _heart, _seen_lock
    _heart = _Heart()
    _seen_lock = threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)
