"""One model on its way into the store: what it needs is held fast from the first look to the last.

An Ollama on the same folder deletes blobs that no manifest names, at moments of its own. So what is here already is
pinned by a hard link before anyone relies on it, and after the manifest stands, the blobs are looked at once more. A
model that is here, manifest and all, needs none of that: its manifest names them.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from towline.errors import NoSpace, StoreError, store_error
from towline.files.confined import Confined, at, held, make_folder, remove_tree, unlink
from towline.files.regular import Irregular, has_file, has_file_itself, read_regular
from towline.files.sync import sync_folder
from towline.model.checksums import BLOCK_BYTES
from towline.model.digest import Digest
from towline.model.manifest import MAX_MANIFEST_BYTES, Descriptor, Manifest
from towline.model.name import ModelName
from towline.sizes import finer
from towline.store.abilities import free_bytes
from towline.store.adoption import Leftovers
from towline.store.durable import link, make_folders, move, write_aside
from towline.store.layout import Layout
from towline.store.locks import FileLock, waiting_for
from towline.store.recheck import Recheck
from towline.store.references import digests_in
from towline.store.staged_small import StagedSmall, whole_name
from towline.store.staging import StagedBlob, clean, staging_of
from towline.store.unused import Unused
from towline.store.verified import Stamp, Verified, stamp

_TRIES = 5
_WRITTEN_BACK = 120.0
"""Seconds after which a file system has written what it was given, whether it was asked to or not: most take 30."""


class Publication:
    """A context manager; the pins go at its end. Every method may raise StoreError, and what `check` raises, which is
    called again and again while others have the store's lock.
    """

    def __init__(
        self,
        layout: Layout,
        name: ModelName,
        manifest: Manifest,
        *,
        verified: Verified,
        unused: Unused,
        leftovers: Leftovers,
        check: Callable[[], None],
    ) -> None:
        self._layout = layout
        self._name = name
        self._manifest = manifest
        self._verified = verified
        self._unused = unused
        self._leftovers = leftovers
        self._check = check
        ticket = uuid.uuid4().hex
        self._pins = layout.pinned(ticket)
        self._lock = FileLock(layout.lock(f"pull-{ticket}"))
        self._held = held(self._pins, layout.inside("staging"), layout.inside("locks"))
        self._staged: dict[Descriptor, StagedBlob | StagedSmall] = {}
        self._fetched: dict[Digest, Stamp] = {}
        self._begun: set[str] = set()
        self._current = False
        self._doubtful: list[Descriptor] = []
        self._wrong: dict[Digest, Stamp] = {}

    def __enter__(self) -> Self:
        self._demand_room(self._layout.manifest(self._name))
        self._held.__enter__()
        try:
            self._lock.wait(self._check)  # a sweep takes it for a moment, to see whether anybody has it
            make_folder(self._pins)
        except BaseException as error:
            self._lock.release()
            self._held.__exit__(None, None, None)
            if isinstance(error, OSError):
                raise store_error(error) from None
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        remove_tree(self._pins)
        self._lock.release()
        self._held.__exit__(None, None, None)

    def staged(self, blob: Descriptor) -> StagedBlob | StagedSmall:
        """Where the blob grows."""
        digest = blob.digest
        begun, wrong = digest.hex in self._begun, self._wrong.get(digest)
        staged = self._staged[blob] = staging_of(self._layout, digest, blob.size, begun=begun, wrong=wrong)
        return staged

    def missing(self) -> list[Descriptor]:
        """The first look: which blobs the store does not have. The others are held fast from then on, if it takes more
        than a look to bring the model in.
        """
        look = self._verified.look(self._manifest.blobs)
        absent = set(look.absent)
        for blob in look.obstructed:
            self._demand_room(self._layout.blob(blob.digest))
        try:
            self._current = not absent and not look.doubtful and self._is_published()
            if not self._current:
                absent.update(blob for blob in self._manifest.blobs if blob not in absent and not self._hold(blob))
        except OSError as error:
            raise store_error(error) from None
        self._doubtful = [blob for blob in look.doubtful if blob not in absent]
        return [blob for blob in self._manifest.blobs if blob in absent]

    def lacking(self, check: Callable[[], None]) -> list[Descriptor]:
        """What `missing` and the rechecks would come to, by a look alone: nothing is written, and no entering needed.

        Blobs whose bytes may have changed are hashed; `check` is called all the time then, and may raise.
        """
        self._demand_room(self._layout.manifest(self._name))
        look = self._verified.look(self._manifest.blobs)
        for blob in look.absent:
            self._demand_room(self._layout.blob(blob.digest))
        wrong = [blob for blob in look.doubtful if not Recheck(blob, self._layout.blob(blob.digest)).run(check)]
        lacking = {*look.absent, *wrong}
        return [blob for blob in self._manifest.blobs if blob in lacking]

    def rechecks(self) -> list[Recheck]:
        """Of the blobs that are here, those whose bytes may have changed: to be run, each, and told to `settle`."""
        return [Recheck(blob, self._layout.blob(blob.digest)) for blob in self._doubtful]

    def settle(self, recheck: Recheck, *, right: bool) -> None:
        """Notes what a recheck has shown. A wrong file counts as none from now on, and goes when the right one is here:
        most of it may be of use, and the right one not to be had any more.
        """
        blob, seen = recheck.blob, recheck.stamp
        try:
            if right and seen is not None:
                with waiting_for(self._layout.lock("store"), self._check):
                    self._verified.add({blob.digest: seen})
                return
            if seen is not None:
                self._wrong[blob.digest] = seen
            with contextlib.suppress(FileNotFoundError):
                unlink(self._pin(blob))
        except OSError as error:
            raise store_error(error) from None

    def _demand_room(self, path: str | Path) -> None:
        """What cannot become a file in one step is said before the first byte."""
        if _is_obstructed(Path(path)):
            where = os.path.relpath(path, self._layout.root)
            raise StoreError(f"{where} in the store should be a file in folders and is not; remove what is there")

    def fetched(self, blob: Descriptor) -> None:
        """A transfer has made the blob whole: it is held fast from now on. A small one stays where it is until the
        model stands, which holds it as well; should another process put it into the store, and an Ollama remove it from
        there, it is fetched once more.
        """
        staged = self._staged.get(blob) or self.staged(blob)
        try:
            with contextlib.suppress(FileNotFoundError):
                self._fetched[blob.digest] = staged.stamp or stamp(os.stat(staged.whole_path))
                if blob.size <= BLOCK_BYTES:
                    return
            if not staged.pin(self._pin(blob)) and staged.is_stored():
                self._hold(blob)
        except OSError as error:
            raise store_error(error) from None

    def _hold(self, blob: Descriptor) -> bool:
        """Holds a blob of the store fast, where the file system can; False where it is gone. Raises OSError."""
        try:
            link(self._layout.blob(blob.digest), self._pin(blob))
        except FileNotFoundError:
            return False
        return True

    def check_space(self, missing: Iterable[Descriptor]) -> None:
        """Raises NoSpace, with what is needed and what is free, if these blobs do not fit."""
        missing = list(missing)
        if not missing:
            return
        try:
            for folder in (self._layout.staging, self._layout.blobs):
                with contextlib.suppress(FileNotFoundError):
                    self._begun.update(name.removeprefix("sha256-").partition("-")[0] for name in os.listdir(folder))
            free = free_bytes(self._layout.own)
        except OSError as error:
            raise store_error(error) from None
        need = sum(b.size - (self.staged(b).allocated if self.has_begun(b) else 0) for b in missing)
        if free is not None and need > free:
            raise NoSpace(
                f"not enough space for {self._name}: {finer(need)} are needed and {finer(free)} are free; "
                "free some space, or set OLLAMA_MODELS to a folder on a larger disk"
            )

    def has_begun(self, blob: Descriptor) -> bool:
        """Whether there was anything of the blob when it was looked whether it fits."""
        return blob.digest.hex in self._begun

    def publish(self) -> list[Descriptor]:
        """Puts the blobs and then the manifest into the store, durably.

        Returns the blobs that went missing on the way: while there are any, the model is not published, and they have
        to be fetched again.
        """
        try:
            return self._publish()
        except OSError as error:
            raise store_error(error) from None

    def restore(self) -> None:
        """Puts back what was removed since the manifest stands: an Ollama may have read the manifests before that, and
        remove only now. The last act of a pull, before it lets go of what it held fast, and of what it has fetched.
        """
        if self._current:
            return
        try:
            if absent := self._removed():
                self._place(absent)
                with waiting_for(self._layout.lock("store"), self._check):
                    self._verified.touch(absent, self._fetched)
            clean(self._layout, (b for b in self._manifest.blobs if b.digest in self._fetched or self.has_begun(b)))
        except OSError as error:
            raise store_error(error) from None

    def remove_unused(self, begin: Callable[[], None]) -> None:
        """Removes what this update and earlier ones replaced, if nothing uses it and it may go by now, and what an
        Ollama left of downloads that are whole by now. Before the first layer goes, `begin` is called.
        """
        if not self._current:
            self._unused.remove(self._pins, begin, self._check)
        self._leftovers.clear()

    def _publish(self) -> list[Descriptor]:
        self._remove_wrong()
        if self._current or (self._is_published() and not self._absent()):
            self._make_last(self._layout.manifest(self._name))
            return []
        self._note_fetched()
        missing = self._place(self._manifest.blobs)
        if missing:
            return missing
        written = self._written_manifest()
        with waiting_for(self._layout.lock("store"), self._check):
            self._put_manifest(written)
            for _ in range(_TRIES):
                absent = self._absent()
                if not absent:
                    break
                missing = self._place(absent)
                if missing:
                    return missing
                self._verified.touch(absent, self._fetched)
        return []

    def _note_fetched(self) -> None:
        """Before they are in the store: whoever finds them there after a kill takes them for another program's."""
        if self._fetched:
            with waiting_for(self._layout.lock("store"), self._check):
                self._verified.add(self._fetched, anew=self._wrong)

    def _remove_wrong(self) -> None:
        """Makes way for what is whole by now."""
        wrong = [blob for blob in self._manifest.blobs if blob.digest in self._wrong]
        if wrong:
            with waiting_for(self._layout.lock("store"), self._check):
                for blob in wrong:
                    staged = self.staged(blob)
                    here = any(has_file_itself(path, blob.size) for path in (self._pin(blob), staged.whole_path))
                    if here and not staged.is_stored():
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(self._layout.blob(blob.digest))

    def _is_published(self) -> bool:
        return _read(self._layout.manifest(self._name)) == self._manifest.raw

    def _place(self, blobs: Iterable[Descriptor]) -> list[Descriptor]:
        make_folders(self._layout.blobs, self._layout.root)
        staged: list[Descriptor] = []
        pinned: list[Descriptor] = []
        for blob in blobs:
            (staged if blob.size <= BLOCK_BYTES and blob.digest in self._fetched else pinned).append(blob)
        missing = self._link(pinned, self._pins, lambda blob: blob.digest.file_name)
        missing += self._link(staged, self._layout.inside("staging"), lambda blob: whole_name(blob.digest, blob.size))
        sync_folder(self._layout.blobs)
        return missing

    def _link(
        self, blobs: Iterable[Descriptor], place: Confined, name: Callable[[Descriptor], str]
    ) -> list[Descriptor]:
        """Links these from a folder into the store; those that are not to be had from anywhere."""
        missing = []
        with contextlib.ExitStack() as stack:
            folder = None
            with contextlib.suppress(FileNotFoundError):
                folder, _ = stack.enter_context(at(place / "."))
            for blob in blobs:
                path = self._layout.blob(blob.digest)
                try:
                    os.link(name(blob), path, src_dir_fd=folder, follow_symlinks=False)
                except OSError:  # it is there, or it is not where it should be
                    if not self._placed(blob, path):
                        missing.append(blob)
        return missing

    def _placed(self, blob: Descriptor, path: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            if link(self._pin(blob), path):
                return True
        staged = self.staged(blob)
        return staged.place(path) or staged.is_stored()

    def _written_manifest(self) -> Confined:
        make_folders(self._layout.manifests, self._layout.root)
        tmp = self._layout.for_manifests(self._pins)
        make_folder(tmp)
        return write_aside(self._manifest.raw, tmp)

    def _put_manifest(self, written: Confined) -> None:
        """Needs the store's lock, until it lasts: what only the manifest before it names may go from then on."""
        path = self._layout.manifest(self._name)  # again: another process may have made it, in its spelling
        ours = {blob.digest for blob in self._manifest.blobs}
        self._unused.note(digests_in(_read(path) or b"") - ours, self._pins)
        self._verified.touch(self._manifest.blobs, self._fetched)
        move(written, path)

    def _make_last(self, path: Path) -> None:
        """A manifest that stands since a moment: whoever wrote it may have been killed before it was made to last."""
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime < _WRITTEN_BACK:
                for folder in path.relative_to(self._layout.manifests).parents:
                    sync_folder(self._layout.manifests / folder)

    def _absent(self) -> list[Descriptor]:
        return [blob for blob in self._manifest.blobs if not self._has(blob)]

    def _has(self, blob: Descriptor) -> bool:
        if blob.digest in self._wrong:
            return self.staged(blob).is_stored()
        return has_file(self._layout.blob(blob.digest), blob.size)

    def _removed(self) -> list[Descriptor]:
        """Those that are gone by their names, as they go where an Ollama removes them."""
        there = set(os.listdir(self._layout.blobs))
        return [blob for blob in self._manifest.blobs if blob.digest.file_name not in there]

    def _pin(self, blob: Descriptor) -> Confined:
        return self._pins / blob.digest.file_name


def _read(path: Path) -> bytes | None:
    try:
        return read_regular(path, MAX_MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError, Irregular):
        return None


def _is_obstructed(path: Path) -> bool:
    """Whether a folder is there, or one that it should stand in is a file, or a link to none."""
    nearest = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if nearest != path:
        return not os.path.isdir(nearest)
    return os.path.isdir(path) and not os.path.islink(path)
