"""A fork in the middle of a pull: the child has none of the threads that work on it, and maybe locks that nobody gives
back. What was begun belongs to the process that began it.
"""

from __future__ import annotations

import os

from towline.errors import TowlineError


class Home:
    """The process in which something was begun."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def left(self) -> bool:
        """Whether this is another process by now, a child of that one."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raises TowlineError in a child."""
        if self.left:
            raise TowlineError(
                "this pull belongs to the process that was forked, and goes on there; begin one after the fork"
            )
