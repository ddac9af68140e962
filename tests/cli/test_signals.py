"""Being told to stop."""

from __future__ import annotations

import os
import signal

import pytest

from towline.cli.signals import Interrupted, interruptible


def test_an_error_that_an_interrupt_became_is_told_as_the_interrupt() -> None:
    """As Python itself makes of one in the middle of an import: `TypeError: expected a message argument`."""
    with pytest.raises(Interrupted) as caught, interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise TypeError("expected a message argument") from None
    assert caught.value.exit_code == 128 + signal.SIGTERM


def test_an_error_of_its_own_stays_what_it_is() -> None:
    with pytest.raises(TypeError), interruptible():
        raise TypeError("none was interrupted")
