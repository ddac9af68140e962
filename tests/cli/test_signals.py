"""Being told to stop."""

from __future__ import annotations

import os
import signal

import pytest

from towline.cli.signals import Interrupted, interruptible


def interrupted_in_an_import() -> None:
    """What Python itself makes of an interrupt there, now and then."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        raise TypeError("expected a message argument") from None


def test_an_error_that_an_interrupt_became_is_told_as_the_interrupt() -> None:
    with pytest.raises(Interrupted) as caught, interruptible():
        interrupted_in_an_import()
    assert caught.value.exit_code == 128 + signal.SIGTERM


def test_an_error_of_its_own_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), interruptible():
        _ = 1 / 0
