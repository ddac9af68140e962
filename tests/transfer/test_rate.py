"""Bandwidth limits."""

from __future__ import annotations

import pytest

from towline.transfer.rate import BURST, Rate


@pytest.mark.parametrize("limit", [10e3, 1e6, 500e6])
@pytest.mark.parametrize("readers", [1, 7])
def test_bytes_come_at_the_limit_within_a_hundredth(limit: float, readers: int) -> None:
    rate = Rate(limit)
    count, clocks = 0, [0.0] * readers
    while min(clocks) < 100:
        reader = clocks.index(min(clocks))
        count += rate.step
        clocks[reader] += rate.spend(rate.step, clocks[reader])
    assert count == pytest.approx(limit * max(clocks), rel=0.01 + BURST / 100 + readers * rate.step / (limit * 100))


def test_a_lull_saves_up_no_more_than_a_moments_worth() -> None:
    rate = Rate(1e6)
    rate.spend(1, 0.0)
    assert rate.spend(int(1e6 * BURST), 1000.0) == pytest.approx(0.0, abs=1e-3)
    assert rate.spend(1_000_000, 1000.0) == pytest.approx(1.0, abs=1e-3)
