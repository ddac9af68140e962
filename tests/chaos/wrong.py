"""A blob that comes wrong in every way, and pulls that are tried again and again."""

from __future__ import annotations

import shutil

from tests.chaos.arena import Arena, check_store
from tests.chaos.outcome import Outcome
from tests.support.exchanges import blob
from tests.support.faults import (
    Close,
    Compressed,
    Fault,
    Flip,
    Header,
    IgnoreRange,
    Longer,
    Replace,
    Shorter,
    Undelimited,
    WrongLength,
    WrongRange,
    web_page,
)
from tests.support.models import generate
from tests.support.pulling import Pulling

MIB = 1 << 20
_SIZE = 3 * MIB
_TRIES = 4
"""The pull that met the fault first, and three more."""

WAYS: tuple[tuple[Fault, ...], ...] = (
    (Flip(0),),
    (Flip(_SIZE - 1),),
    (IgnoreRange(), Flip(2 * MIB)),
    (Undelimited(), Flip(MIB)),
    (Shorter(),),
    (Shorter(MIB + 3),),
    (Longer(),),
    (Longer(4096),),
    (WrongLength(-7),),
    (WrongLength(7),),
    (Close(after=MIB),),
    (WrongRange(shift=1),),
    (WrongRange(grow=1),),
    (Header("Content-Range", None),),
    (IgnoreRange(), Shorter()),
    (IgnoreRange(), Longer()),
    (Compressed(),),
    (web_page(),),
    (Replace(bytes(_SIZE)),),
    (Replace(b""),),
)
"""Faults that meet every answer for the blob, together."""


def spoil(arena: Arena, times: int) -> Outcome:
    """`times` of the ways; some are cured (the rest is asked for), and then every byte must be right."""
    cured = failed = most = 0
    for number, faults in enumerate(WAYS[:: -(-len(WAYS) // times)]):
        model = generate(_SIZE, seed=300 + number)
        name = arena.registry.add(model, f"library/wrong-{number}")
        for fault in faults:
            arena.registry.fail(blob(model.weights), fault, times=None)
        store = arena.new_store()
        with Pulling(store, stall_timeout=1.0) as pulling:
            for _ in range(_TRIES):
                following = pulling.start(name)
                error = following.until_over()
                said = following.lines[-1] == {"status": "success"}
                assert said == (error is None), f"{faults}: it said {following.lines[-1]} and failed with {error}"
                if said:
                    pulling.check_stored(name, model)
                    cured += 1
                    break
                failed += 1
                assert check_store(store) == set(), f"{faults}: a model is there that never came"
            arena.registry.heal()
            arena.registry.wait_idle()
            arena.registry.reset()
            pulling.pull(name, model)
            most = max(most, arena.registry.bytes_sent(model.weights))
        shutil.rmtree(store)
    ways = len(WAYS[:: -(-len(WAYS) // times)])
    told = f"{failed} pulls failed, none said success over wrong bytes; {cured} ways were cured by asking for the rest"
    return Outcome(ways, f"{told}; once healed, every model came whole", most)
