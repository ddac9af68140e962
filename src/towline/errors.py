"""What towline raises on purpose.

    TowlineError
    ├── InvalidName          a model name that breaks a rule of the format
    ├── InvalidRequest       a request or an option that makes no sense
    ├── NotFound             no registry asked has the model or the tag; or the store does not
    ├── RegistryError        a registry could not be asked, or refused
    │   └── InvalidManifest  what it sent as a manifest is not one
    ├── TransferError        the bytes of a blob could not be had
    │   ├── DigestMismatch   they came, whole, and are not what the manifest promised
    │   └── SourceError      one source of a blob failed; the transfer tries again or goes elsewhere
    │       ├── SourceBusy   try later
    │       ├── SourceGone   this source never will
    │       └── SourceLied   it sent other bytes than it was asked for
    ├── StoreError           the folder cannot be read or written
    │   └── NoSpace          the file system is full, or would be
    ├── Starved              the machine has no thread or memory to spare, for the moment
    └── Cancelled            nobody waits for the result any longer

    OSError
    └── Obstructed           something else stands in the place of towline's own file or folder

The second kind is raised where the system raises its own errors of files; `store_error` makes a `StoreError` of either.
Each error's text is one sentence for the person who sees it: what is wrong and what to do. No text holds a
credential, the query of a URL, or a path outside the store. None of them knows HTTP: the server maps them to a
status in one place.
"""

from __future__ import annotations

import errno
import os


class TowlineError(Exception):
    """The root: `str(error)` is the sentence to show."""


class InvalidName(TowlineError):
    """A model name that breaks a rule of the format."""


class InvalidRequest(TowlineError):
    """A request, a setting or an option that makes no sense."""


class NotFound(TowlineError):
    """No registry that was asked has the model or the tag, or the store does not have it."""


class RegistryError(TowlineError):
    """A registry could not be asked, or refused."""


class InvalidManifest(RegistryError):
    """What a registry sent as a manifest is not one that towline can use."""


class TransferError(TowlineError):
    """The bytes of a blob could not be had."""


class DigestMismatch(TransferError):
    """All bytes of a blob came and are not the ones that the manifest promised."""


class SourceError(TransferError):
    """One source of a blob failed; the transfer decides what that means for the blob."""


class SourceBusy(SourceError):
    """The source may work later: after `retry_after` seconds where it said so.

    `refused` tells a connection that was refused from other failures: waiting seldom cures it.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, refused: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.refused = refused


class SourceGone(SourceError):
    """The source will never have the blob, or refuses it for good."""


class SourceLied(SourceError):
    """The source sent something else than the bytes that it was asked for."""


class StoreError(TowlineError):
    """The store's folder cannot be read or written."""


class NoSpace(StoreError):
    """The file system is full, or would be."""


class Starved(TowlineError):
    """The machine has no thread, or no memory, to spare for the moment."""


class Obstructed(OSError):
    """What stands in the place of towline's own file or folder is not touched; the text is a `StoreError`'s."""

    def __init__(self, sentence: str) -> None:
        super().__init__(errno.ELOOP, sentence)


class Cancelled(TowlineError):
    """Nobody waits for the result any longer."""


def store_error(error: OSError) -> StoreError:
    """The sentence for what the operating system said of the store; its paths stay out of it."""
    if isinstance(error, Obstructed):
        return StoreError(error.strerror)
    if error.errno == errno.EFBIG:
        return StoreError(
            "the file system of the store cannot hold a file that large; set OLLAMA_MODELS to a folder on another one"
        )
    if error.errno == errno.ENOSPC:
        return NoSpace(
            "the disk is full, or holds as many files as it can; free some space and pull again, what arrived is kept"
        )
    if error.errno == errno.EDQUOT:
        return NoSpace("the disk quota is used up; free some space and pull again, what arrived is kept")
    if error.errno == errno.EROFS:
        return StoreError(
            "the store is on a read-only file system; make it writable or set OLLAMA_MODELS to another folder"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreError("the store cannot be written; check the owner and the permissions of its folder")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return StoreError("a folder of the store was removed while it was in use; pull again")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StoreError("too many files are open; raise the limit (ulimit -n) or lower TOWLINE_CONNECTIONS")
    return StoreError(f"the store cannot be used ({os.strerror(error.errno or 0).lower()}); check its disk")
