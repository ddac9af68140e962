"""The figures, in their order; each module measures one contest and returns its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.figures import blob, clients, distant, finish, late, layers, link, memory, rivals, start, unchanged, watchers
from bench.row import Row
from bench.workspace import Workspace


@dataclass(frozen=True)
class Figure:
    """Something to measure."""

    name: str
    title: str
    measure: Callable[[Workspace], Sequence[Row]]


FIGURES = tuple(
    Figure(name, title, measure)
    for name, title, measure in (
        ("blob", "One large blob, verified", blob.measure),
        ("finish", "From the last byte to success", finish.measure),
        ("memory", "Peak memory of the daemon", memory.measure),
        ("rivals", "The same job by others", rivals.measure),
        ("layers", "Many small layers", layers.measure),
        ("distant", "Many small layers behind a round trip", distant.measure),
        ("unchanged", "A pull with nothing new", unchanged.measure),
        ("watchers", "Many watchers of one pull", watchers.measure),
        ("link", "A long, narrow link", link.measure_use),
        ("drop", "A connection that drops to a crawl", link.measure_drop),
        ("late", "Late servers, slow disks and crowds", late.measure),
        ("start", "Cold start", start.measure),
        ("clients", "urllib3 and pycurl behind the seam", clients.measure),
    )
)
