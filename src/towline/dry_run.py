"""A dry run: what a pull would fetch."""

from __future__ import annotations

from towline.model.events import DRY_RUN
from towline.model.manifest import Descriptor
from towline.pulling import Pull
from towline.store.publication import Publication
from towline.tracks import Track, Tracks
from towline.transfer.growing import promised
from towline.transfer.work import Wanted


class DryRun(Pull):
    """The name resolved, the model compared with the store and the space checked, as a pull does it. No blob is asked
    for, and nothing is stored: there need not even be a store.

    Its blobs are told as they stand, each once.
    """

    kind = "dry run"

    def _pull(self) -> None:
        name = self._store.spelled(self.name)
        manifest = self._resolve(name).manifest
        outlook = self._store.outlook(name, manifest)
        lacking = outlook.lacking(self._check)
        outlook.check_space(lacking)
        found = {blob: self._begun(blob, outlook) for blob in lacking}
        self.course.commit(Tracks([Track(blob, None, found.get(blob, blob.size)) for blob in manifest.blobs]))
        self.course.reach(DRY_RUN)

    def _begun(self, blob: Descriptor, outlook: Publication) -> int:
        """Bytes of it that an interrupted pull left; of one that is in the store with wrong bytes nothing is kept."""
        if not outlook.has_begun(blob) or self._store.has_blob(blob.digest, blob.size):
            return 0
        return promised(Wanted(blob.digest, blob.size, (), outlook.staged(blob)))
