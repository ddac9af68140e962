"""One question to the endpoints of a registry: one after another, and beside one another where one thinks for long."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from towline import threads
from towline.errors import InvalidManifest, NotFound, RegistryError, SourceBusy, SourceGone, SourceLied, Starved
from towline.model.name import ModelName
from towline.registry.endpoints import Endpoint
from towline.registry.http import Call

if TYPE_CHECKING:
    from towline.registry.client import Inquiry

FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 4.0
_REFUSED_PAUSE = 1.0
"""Seconds before an endpoint that failed is asked again; the first doubles up to one of the others."""

_REFUSALS_APART = 1.5
"""Seconds that count at most between two refusals: more is time in which this process did not run."""

_LAST_WORD = 0.5
"""Seconds before the patience is out in which what is known by then is told."""

_LOOK_AGAIN = 0.1
_LONGEST_WAIT = 3600.0
_JOINED_WITHIN = 0.25
"""Seconds for threads that were cancelled; what asks for the addresses of a host then cannot be interrupted."""

_PASSED_OVER = (SourceBusy, SourceGone, SourceLied, RegistryError, NotFound)

T = TypeVar("T")


class _Candidate:
    """An endpoint, and how the question fares there. Times of `time.monotonic`."""

    def __init__(self, endpoint: Endpoint, call: Call) -> None:
        self.endpoint = endpoint
        self.call = call
        self.asked_at: float | None = None
        """While a request is under way."""
        self.not_before = -math.inf
        self.failure: Exception | None = None
        """The last one."""
        self._pause = FIRST_PAUSE

    def failed(self, error: Exception, now: float) -> None:
        """What waiting cannot cure is not asked for again."""
        self.asked_at, self.failure, self.not_before = None, error, math.inf
        if isinstance(error, SourceBusy):
            pause = self._pause * random.uniform(0.75, 1.25)  # noqa: S311
            self.not_before = now + max(pause, error.retry_after or 0.0)
            self._pause = min(self._pause * 2, _REFUSED_PAUSE if error.refused else _LONGEST_PAUSE)


class Race(Generic[T]):
    """Asks the endpoints, in their order, until one has answered.

    The next one is asked when one fails, and when the one that was asked last has thought for `share` seconds, each on
    a thread of its own; whoever thinks is left alone. An endpoint that is busy is asked again, no sooner than it said.
    """

    def __init__(
        self,
        name: ModelName,
        endpoints: Sequence[Endpoint],
        question: Callable[[Call, Endpoint], T],
        *,
        share: float,
        refused_timeout: float,
        inquiry: Inquiry,
    ) -> None:
        self._name = name
        self._endpoints = endpoints
        self._question = question
        self._share = share
        self._refusals = _Refusals(refused_timeout)
        self._inquiry = inquiry
        self._candidates: list[_Candidate] = []
        self._threads: list[threading.Thread] = []
        self._outcomes: deque[tuple[_Candidate, T | Exception]] = deque()
        self._stirred = threading.Event()

    def run(self, call: Call, further: Callable[[], Call]) -> tuple[Endpoint, T]:
        """The first answer, and whose it is. A single endpoint is asked by way of `call`, each of several by a
        `further` conversation; whoever cancels `call` ends them all.

        Raises the failure that tells the most where waiting cures none, or all have refused connections for
        `refused_timeout` seconds and the patience is not endless; Cancelled, Starved.
        """
        alone = len(self._endpoints) == 1
        self._candidates = [_Candidate(each, call if alone else further()) for each in self._endpoints]
        try:
            while True:
                until = self._ask(in_threads=not alone)
                call.wait(max(0.0, min(until - time.monotonic(), _LONGEST_WAIT)), self._stirred)
                self._stirred.clear()
                if won := self._winner():
                    return won
        finally:
            if not alone:
                self._end()

    def _ask(self, *, in_threads: bool) -> float:
        """Asks whoever's turn it is; when to look again."""
        while isinstance(turn := self._turn(), _Candidate):
            turn.asked_at = time.monotonic()
            self._tell()
            if in_threads:
                try:
                    thread = threads.start(partial(self._answer, turn), "towline-ask")
                    self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
                except Starved:
                    turn.asked_at = None
                    if not self._under_way:
                        raise
                    return time.monotonic() + self._share
            else:
                self._answer(turn)
        return turn

    def _answer(self, candidate: _Candidate) -> None:
        outcome: T | Exception
        try:
            with candidate.call as call:
                outcome = self._question(call, candidate.endpoint)
        except Exception as error:  # noqa: BLE001 - whoever runs the race raises it
            outcome = error
        self._outcomes.append((candidate, outcome))
        self._stirred.set()

    @property
    def _under_way(self) -> list[_Candidate]:
        return [each for each in self._candidates if each.asked_at is not None]

    def _turn(self) -> _Candidate | float:
        """Whose turn it is; else when to look again."""
        now = time.monotonic()
        free_at = max(
            (each.asked_at + self._share for each in self._candidates if each.asked_at is not None), default=now
        )
        times = [(max(each.not_before, free_at), each) for each in self._candidates if each.asked_at is None]
        for at, candidate in times:
            if at <= now:
                return candidate
        soonest = min((at for at, _ in times), default=math.inf)
        return min(soonest, now + _LOOK_AGAIN) if self._absent else soonest

    def _winner(self) -> tuple[Endpoint, T] | None:
        """Who has answered, if any has. Raises as `run`."""
        while self._outcomes:
            candidate, outcome = self._outcomes.popleft()
            if isinstance(outcome, _PASSED_OVER):
                candidate.failed(outcome, time.monotonic())
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                return candidate.endpoint, outcome
        self._tell()
        failures = self._failures
        if self._under_way:
            patience = self._inquiry.patience
            if self._absent and patience.waited >= patience.seconds - _LAST_WORD:
                raise summed_up(self._name, failures)
        elif len(failures) == len(self._candidates):
            refused = self._refusals.last_too_long(failures) and not self._inquiry.patience.endless
            if refused or self._absent or not any(isinstance(error, SourceBusy) for error in failures):
                raise summed_up(self._name, failures)
        return None

    @property
    def _failures(self) -> list[Exception]:
        return [each.failure for each in self._candidates if each.failure is not None]

    @property
    def _absent(self) -> bool:
        """Whether an endpoint said that it does not have the model."""
        return any(isinstance(error, NotFound) for error in self._failures)

    def _tell(self) -> None:
        """What is waited for."""
        if failures := self._failures:
            self._inquiry.trouble = str(summed_up(self._name, failures))
        else:
            asked = [each.endpoint.shown for each in self._under_way]
            self._inquiry.trouble = f"{' and '.join(asked)} {'does' if len(asked) == 1 else 'do'} not answer"

    def _end(self) -> None:
        for candidate in self._candidates:
            candidate.call.cancel()
        deadline = time.monotonic() + _JOINED_WITHIN
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


class _Refusals:
    """For how long every endpoint has refused connections."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._spent = 0.0
        self._since: float | None = None

    def last_too_long(self, failures: Sequence[Exception]) -> bool:
        """Notes the failures of all endpoints; whether there were refusals only for `timeout` seconds."""
        now = time.monotonic()
        if not all(error.refused for error in failures if isinstance(error, SourceBusy)):
            self._since, self._spent = None, 0.0
            return False
        if self._since is not None:
            self._spent += min(now - self._since, _REFUSALS_APART)
        self._since = now
        return self._spent >= self._timeout


def summed_up(name: ModelName, failures: Sequence[Exception]) -> Exception:
    """The one error that tells the most: a 404 first, then what waiting cannot cure, then the rest. A 404 is told with
    why somebody else, who may have the model, could not be asked.
    """
    absent = [error for error in failures if isinstance(error, NotFound)]
    if absent:
        others = [str(error) for error in failures if not isinstance(error, NotFound)]
        return NotFound(f"{absent[0]}; elsewhere it cannot be looked for: {others[0]}") if others else absent[0]
    for kind in (RegistryError, SourceGone, SourceLied, SourceBusy):
        for error in failures:
            if isinstance(error, kind):
                told = InvalidManifest if isinstance(error, InvalidManifest) else RegistryError
                return told(f"cannot pull {name}: {error}")
    return RegistryError(f"cannot pull {name}: no endpoint is configured for {name.host}")
