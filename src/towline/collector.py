"""Python's collector of cyclic garbage, in a process that is towline's own."""

from __future__ import annotations

import gc

YOUNG = 50_000
"""Objects that come before it looks for garbage among them: what a model of thousands of layers makes in one go."""


def rest() -> None:
    """Leaves out what was there at the start, and looks less often: by default one pull of thousands of layers has it
    go through everything dozens of times, for tens of milliseconds each, in which nothing else runs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)
