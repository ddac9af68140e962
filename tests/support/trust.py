"""Which authorities clients inside the test's process trust. Fixtures, for the conftest of a folder to import."""

from __future__ import annotations

import pytest

from tests.support.certificates import Authority
from tests.support.components import require


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority than the one that the servers of the tests have their certificates from."""
    require("openssl")
    return Authority.create(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(autouse=True)
def trust(strangers: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """One authority to trust instead of the system's hundred and fifty, which take 30 ms to read, a test."""
    monkeypatch.setenv("SSL_CERT_FILE", str(strangers.ca))
