"""Tests of towline, laid out as `src/` is."""

import pytest

pytest.register_assert_rewrite("tests.support")
