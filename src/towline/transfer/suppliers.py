"""Where one blob may come from, and which source is asked next. Times are given; callers hold the transfer's lock.

Sources are asked in their order: a later one where those before it pause, are gone, or have all the connections that
they may have. After wrong bytes one source alone is asked, the least blamed, so that it is known whose they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from towline.errors import DigestMismatch, SourceError, TransferError
from towline.model.digest import Digest
from towline.transfer.protocols import BlobSource
from towline.transfer.slots import Slots
from towline.transfer.supplier import Supplier, pick
from towline.transfer.work import CROWDED

MAX_BLAME = 2
"""Times that a source may have given bytes to a blob that proved wrong."""


class Suppliers:
    """The sources of the blob `digest`, and how each fares."""

    def __init__(self, digest: Digest, sources: Sequence[BlobSource], refused_timeout: float, slots: Slots) -> None:
        self._digest = digest
        self._refused_timeout = refused_timeout
        self._slots = slots
        self._all: list[Supplier] = []
        self._alone: Supplier | None = None
        self._attempts = 1
        self.offer(sources)

    def offer(self, sources: Iterable[BlobSource]) -> bool:
        """Further sources, from another caller who wants the same blob; whether any is new."""
        before = len(self._all)
        for source in sources:
            if all(supplier.source != source for supplier in self._all):
                self._all.append(Supplier(source, self._refused_timeout))
        return len(self._all) > before

    def pick(self, now: float) -> Supplier | float | None:
        """Whom to ask now; else when to look again, or CROWDED; None where all are gone."""
        free = [supplier for supplier in self._asked if self._slots.free(str(supplier.source))]
        picked = pick(free, now)
        if isinstance(picked, Supplier) or all(each.gone is not None or each in free for each in self._asked):
            return picked
        return CROWDED

    def spare(self, chosen: Supplier, slow: Iterable[Supplier], now: float) -> Supplier:
        """Another than the chosen source where that is among the slow ones, and another is willing; else the chosen."""
        slow = set(slow)
        if len(self._asked) == 1 or chosen not in slow:
            return chosen
        for supplier in slow:
            supplier.hangs(now)
        other = self.pick(now)
        return other if isinstance(other, Supplier) and other.source.ranged else chosen

    def blame(self) -> bool:
        """The bytes proved wrong: notes whose they were, and has one source asked alone. False where that is no use."""
        for supplier in self._asked:
            supplier.blamed += supplier.delivered
            supplier.delivered = False
        self._alone = self._least_blamed()
        self._attempts += 1
        return self._alone is not None and self._attempts <= len(self._all) + 1

    def turn_back(self) -> bool:
        """The source that is asked alone is gone: asks another one alone. False where none is left, or none was."""
        if self._alone is None:
            return False
        self._alone = self._least_blamed() or self._alone
        return self._alone.gone is None

    def trouble(self, last: SourceError | None) -> str:
        """Why bytes lack, for a sentence: what somebody can act on, else the `last` that a source said."""
        return str(self._final or last or f"{self} sends nothing")

    @property
    def failure(self) -> TransferError:
        """Why the blob cannot be had, when all are gone."""
        if self._alone is not None:
            return self.mismatch
        told = self._final or next((supplier.gone for supplier in self._all if supplier.gone is not None), None)
        return TransferError(f"cannot download {self._digest}: {told or 'no source is known'}")

    @property
    def _final(self) -> SourceError | None:
        """Why the first of those is gone that did more than to refuse connections: what no waiting cures."""
        errors = [supplier.gone for supplier in self._all if supplier.gone is not None]
        return next((error for error in errors if not getattr(error, "refused", False)), None)

    @property
    def mismatch(self) -> DigestMismatch:
        """That wrong bytes came, and from whom."""
        names = ", ".join(dict.fromkeys(str(supplier.source) for supplier in self._all if supplier.blamed))
        return DigestMismatch(
            f"digest mismatch: what {names or 'the registry'} sends for {self._digest} has another content; "
            "pull again later, or from another registry"
        )

    def __str__(self) -> str:
        """The first, for a sentence."""
        return str(self._all[0].source) if self._all else "the registry"

    @property
    def _asked(self) -> list[Supplier]:
        return [self._alone] if self._alone is not None else self._all

    def _least_blamed(self) -> Supplier | None:
        willing = [supplier for supplier in self._all if supplier.gone is None and supplier.blamed < MAX_BLAME]
        return min(willing, key=lambda supplier: supplier.blamed, default=None)
