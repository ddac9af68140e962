"""Whole pulls: what they say, what they fetch, and what they leave in the store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.challenges import Bearer
from tests.support.exchanges import blob, manifest
from tests.support.faults import Delay, Replace, Stall, Status
from tests.support.models import Blob, Model, crowd, generate, tiny, weights
from tests.support.pulling import Pulling, eventually, open_descriptors
from tests.support.registry import FaultRegistry
from towline.errors import Cancelled, NotFound
from towline.model.checksums import TABLE_AT
from towline.model.manifest import LICENSE_LAYER, TEMPLATE_LAYER
from towline.model.name import ModelName
from towline.settings import Mirror

MIB = 1 << 20
STEPS = ["verifying sha256 digest", "writing manifest", "success"]


@pytest.fixture(scope="module")
def model() -> Model:
    return generate(20 * MIB, seed=11)


class TestFetching:
    def test_a_model_comes_byte_for_byte(self, registry: FaultRegistry, pulling: Pulling, model: Model) -> None:
        pull = pulling.pull(registry.add(model, "library/model"), model)
        assert pull.fetched == {each.digest for each in model.blobs}
        assert registry.bytes_sent() == model.size

    def test_a_second_pull_asks_for_the_manifest_and_for_no_blob(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        first = pulling.pull(name, model)
        registry.reset()
        second = pulling.pull(name, model)
        assert not registry.blob_requests()
        assert second.steps == first.steps

    def test_a_layer_that_is_here_already_shows_one_event(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        pulling.pull(name, model)
        again = pulling.pull(name, model)
        assert again.completed == {str(each.digest): [each.size] for each in model.blobs}

    def test_a_newer_version_fetches_only_what_changed(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        newer = model.with_layer(Blob.of(LICENSE_LAYER, "another license"))
        pulling.pull(registry.add(model, "library/model"), model)
        registry.reset()
        pull = pulling.pull(registry.add(newer, "library/model"), newer)
        license_layer = next(each for each in newer.layers if each.media_type == LICENSE_LAYER)
        assert pull.fetched == {license_layer.digest, newer.config.digest}
        assert {exchange.digest for exchange in registry.blob_requests()} == pull.fetched

    def test_a_layer_of_another_model_is_not_fetched_again(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        other = Model.of([model.weights, Blob.of(TEMPLATE_LAYER, "other")])
        pulling.pull(registry.add(model, "library/model"), model)
        pulling.pull(registry.add(other, "library/other"), other)
        assert registry.bytes_sent(model.weights) == model.weights.size

    def test_a_model_that_runs_elsewhere_is_its_config_alone(self, registry: FaultRegistry, pulling: Pulling) -> None:
        model = Model.of([], remote_model="big:1t", remote_host="https://models.example").with_manifest(layers=None)
        name = registry.add(model, "library/big")
        assert pulling.pull(name, model).fetched == {model.config.digest}
        registry.reset()
        assert not pulling.pull(name, model).fetched

    def test_a_layer_that_is_named_twice_is_fetched_once(self, registry: FaultRegistry, pulling: Pulling) -> None:
        twice = Model.of([weights(MIB), weights(MIB), *tiny().layers])
        pulling.pull(registry.add(twice, "library/model"), twice)
        assert registry.bytes_sent(weights(MIB)) == MIB

    def test_an_empty_layer_is_fetched_without_a_request(self, registry: FaultRegistry, pulling: Pulling) -> None:
        empty = Blob.of(LICENSE_LAYER, b"")
        model = tiny().with_layer(empty)
        pulling.pull(registry.add(model, "library/model"), model)
        assert not registry.blob_requests(empty)

    @pytest.mark.parametrize("size", [1, MIB - 1, MIB, MIB + 1, 4 * MIB, 4 * MIB + 1, 16 * MIB, 16 * MIB + 1])
    @pytest.mark.parametrize("connections", [1, 8])
    def test_a_blob_of_any_size_comes_whole_over_any_number_of_connections(
        self, registry: FaultRegistry, store_path: Path, size: int, connections: int
    ) -> None:
        model = Model.of([Blob.of("x", bytes(range(251)) * (size // 251) + bytes(size % 251))])
        name = registry.add(model, "library/model")
        with Pulling(store_path, connections_per_blob=connections) as pulling:
            pulling.pull(name, model)

    def test_a_crowd_of_layers_comes_whole(self, registry: FaultRegistry, pulling: Pulling) -> None:
        many = crowd(150)
        pulling.pull(registry.add(many, "library/crowd"), many)
        assert registry.bytes_sent() == many.size

    def test_no_more_connections_are_made_than_are_allowed(self, registry: FaultRegistry, store_path: Path) -> None:
        many = crowd(60)
        name = registry.add(many, "library/crowd")
        with Pulling(store_path, connections=3) as pulling:
            pulling.pull(name, many)
        assert registry.connections() <= 4

    def test_a_model_without_any_layer_is_pulled(self, registry: FaultRegistry, pulling: Pulling) -> None:
        bare = Model.of([])
        pulling.pull(registry.add(bare, "library/bare"), bare)

    def test_a_pull_over_redirects_and_tokens_comes_whole_and_shows_the_blob_host_no_token(
        self, registry: FaultRegistry, blob_host: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        bearer = Bearer(uses=2)
        name = registry.add(model, "library/model")
        registry.require(bearer)
        registry.redirect_blobs_to(blob_host)
        with Pulling(store_path) as pulling:
            pulling.pull(name, model)
        assert not blob_host.violations
        assert all("authorization" not in exchange.headers for exchange in blob_host.exchanges())

    def test_addresses_and_tokens_that_expire_in_the_middle_are_asked_for_again(
        self, registry: FaultRegistry, blob_host: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        bearer = Bearer()
        name = registry.add(model, "library/model")
        registry.require(bearer)
        registry.redirect_blobs_to(blob_host)
        stall = Stall(after=2 * MIB)
        blob_host.fail(blob(model.weights), stall, times=1)
        following = pulling.start(name).until_completed(model.weights, 2 * MIB)
        bearer.expire()
        blob_host.expire_addresses()
        stall.release()
        following.finish(model)
        assert not blob_host.violations

    def test_a_name_that_nobody_has_is_not_found_and_leaves_nothing(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        assert isinstance(pulling.fail(f"{registry.host}/library/none"), NotFound)
        assert not [path for path in pulling.models.rglob("*") if path.is_file()]

    def test_names_and_the_store_keep_the_host_that_a_mirror_stands_for(
        self, registry: FaultRegistry, store_path: Path
    ) -> None:
        small = tiny()
        registry.add(small, "library/tiny")
        with Pulling(store_path, mirrors=(Mirror("registry.ollama.ai", registry.url),)) as pulling:
            pulling.pull("tiny", small)
            assert [str(each.name) for each in pulling.puller.store.list()] == ["tiny:latest"]
        assert (store_path / "manifests/registry.ollama.ai/library/tiny/latest").read_bytes() == small.manifest
        assert {exchange.query.get("ns") for exchange in registry.exchanges()} == {"registry.ollama.ai"}

    def test_a_pinned_model_is_stored_under_its_tag(self, registry: FaultRegistry, pulling: Pulling) -> None:
        old, new = tiny(), tiny(seed=1)
        registry.add(old, "library/tiny")
        name = registry.add(new, "library/tiny")
        pulling.start(f"{name}@{old.digest}").finish(old)
        pulling.check_stored(name, old)

    def test_a_manifest_other_than_the_pinned_one_changes_nothing(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        old, new = tiny(), tiny(seed=1)
        name = registry.add(old, "library/tiny")
        pulling.pull(name, old)
        registry.put_manifest("library/tiny", "latest", new.manifest)
        error = pulling.fail(f"{name}@{tiny(seed=2).digest}")
        assert "not the pinned one" in str(error)
        pulling.check_stored(name, old)

    @pytest.mark.parametrize("raw", [b"<html>", b"[" * (1 << 20), b"{}"], ids=["html", "nesting", "empty"])
    def test_a_manifest_that_is_none_changes_nothing(
        self, registry: FaultRegistry, pulling: Pulling, raw: bytes
    ) -> None:
        small = tiny()
        name = registry.add(small, "library/tiny")
        pulling.pull(name, small)
        registry.fail(manifest(), Replace(raw))
        pulling.fail(name)
        pulling.check_stored(name, small)


class TestSharing:
    def test_ten_pulls_of_one_model_at_once_fetch_each_byte_once(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(manifest(), Delay(0.1))
        followings = [pulling.start(name) for _ in range(10)]
        for following in followings:
            following.finish(model)
        assert registry.bytes_sent() == model.size
        assert len(registry.exchanges(manifest())) == 1

    def test_pulls_from_ten_threads_over_many_connections_fetch_no_byte_ten_times(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        with Pulling(store_path) as pulling:
            in_threads(10, lambda _: pulling.start(name).finish(model))
            pulling.check_stored(name, model)
        assert registry.bytes_sent() < 2 * model.size  # taking over a part costs what was on its way

    def test_models_that_share_a_layer_share_its_download(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        others = [Model.of([model.weights, Blob.of(TEMPLATE_LAYER, f"template {n}")]) for n in range(6)]
        names = [registry.add(other, f"library/model-{n}") for n, other in enumerate(others)]
        stall = Stall(after=MIB)
        registry.fail(blob(model.weights), stall, times=1)
        followings = [pulling.start(name) for name in names]
        for following in followings:
            following.until_completed(model.weights, MIB)
        stall.release()
        for following, other in zip(followings, others, strict=True):
            following.finish(other)
        assert registry.bytes_sent(model.weights) == model.weights.size

    def test_a_layer_shared_by_two_registries_comes_from_the_other_when_one_fails(
        self, registry: FaultRegistry, blob_host: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        other = Model.of([model.weights, Blob.of(TEMPLATE_LAYER, "other")])
        here, there = registry.add(model, "library/model"), blob_host.add(other, "library/other")
        stall = Stall(after=MIB)
        registry.fail(blob(model.weights), stall, times=1)
        registry.fail(blob(model.weights), Status(404), times=None, skip=1)
        one = pulling.start(here).until_completed(model.weights, MIB)
        two = pulling.start(there).until_completed(model.weights, MIB)
        stall.release()
        registry.stop()
        one.finish(model)
        two.finish(other)

    def test_a_download_goes_on_for_whoever_is_left_when_another_model_is_given_up(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        other = Model.of([model.weights, Blob.of(TEMPLATE_LAYER, "other")])
        stall = Stall(after=MIB)
        registry.fail(blob(model.weights), stall, times=1)
        one = pulling.start(registry.add(model, "library/model")).until_completed(model.weights, MIB)
        two = pulling.start(registry.add(other, "library/other")).until_completed(model.weights, MIB)
        one.close()
        stall.release()
        two.finish(other)
        assert registry.bytes_sent(model.weights) == model.weights.size

    def test_names_that_differ_in_case_only_share_one_pull(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        stall = Stall(after=MIB)
        registry.fail(blob(model.weights), stall, times=1)
        one = pulling.start(name).until_completed(model.weights, MIB)
        two = pulling.start(name.replace("library/model", "Library/MODEL")).until_completed(model.weights, MIB)
        stall.release()
        one.finish(model)
        two.finish(model)
        assert len(registry.exchanges(manifest())) == 1

    def test_whoever_joins_late_hears_everything_from_the_beginning(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        stall = Stall(after=5 * MIB)
        registry.fail(blob(model.weights), stall, times=1)
        one = pulling.start(name).until_completed(model.weights, 5 * MIB)
        two = pulling.start(name)
        stall.release()
        one.finish(model)
        assert two.finish(model).steps == ["pulling manifest", "pulling", *STEPS]

    def test_more_pulls_than_run_at_once_all_come_to_an_end(self, registry: FaultRegistry, pulling: Pulling) -> None:
        models = [tiny(seed) for seed in range(40)]
        names = [registry.add(each, f"library/tiny-{n}") for n, each in enumerate(models)]
        followings = [pulling.start(name) for name in names]
        for following, each in zip(followings, models, strict=True):
            following.finish(each)
        assert len(pulling.puller.store.list()) == 40


class TestCancelling:
    def test_when_the_last_caller_leaves_the_download_stops(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Stall(after=2 * MIB), times=None)
        one = pulling.start(name).until_completed(model.weights, 2 * MIB)
        two = pulling.start(name).until_completed(model.weights, 2 * MIB)
        one.close()
        two.close()
        registry.wait_idle()
        assert isinstance(one.until_over(), Cancelled)

    def test_when_the_first_of_two_leaves_it_goes_on(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        stall = Stall(after=2 * MIB)
        registry.fail(blob(model.weights), stall, times=None)
        one = pulling.start(name).until_completed(model.weights, 2 * MIB)
        two = pulling.start(name)
        one.close()
        stall.release()
        two.finish(model)
        assert registry.bytes_sent() == model.size

    def test_the_next_pull_fetches_only_the_rest(self, registry: FaultRegistry, pulling: Pulling, model: Model) -> None:
        name = registry.add(model, "library/model")
        stall = Stall(after=5 * MIB + 123)
        registry.fail(blob(model.weights), stall, times=1)
        following = pulling.start(name).until_completed(model.weights, 5 * MIB)
        following.close()
        registry.wait_idle()
        registry.reset()
        again = pulling.pull(name, model)
        assert again.first(model.weights) >= 5 * MIB
        assert registry.bytes_sent(model.weights) == model.weights.size - 5 * MIB - 123

    def test_the_next_pull_by_another_process_over_many_connections_fetches_only_the_rest(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Stall(after=3 * MIB), times=None)
        with Pulling(store_path) as pulling:
            pulling.start(name).until_completed(model.weights, 3 * MIB).close()
        registry.heal()
        registry.reset()
        with Pulling(store_path, connections_per_blob=1) as pulling:
            again = pulling.pull(name, model)
        assert again.first(model.weights) >= 3 * MIB
        assert registry.bytes_sent(model.weights) <= model.weights.size - again.first(model.weights)

    def test_a_pull_that_is_joined_right_after_it_was_given_up_succeeds(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Stall(after=2 * MIB), times=1)
        pulling.start(name).until_completed(model.weights, 2 * MIB).close()
        pulling.pull(name, model)
        assert registry.bytes_sent(model.weights) == model.weights.size

    def test_a_pull_can_be_given_up_and_begun_again_many_times(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        with Pulling(store_path) as pulling:
            for count in range(1, 16):
                pulling.start(name).until_completed(model.weights, count * MIB).close()
            pulling.pull(name, model)

    @pytest.mark.parametrize("after", [-1, 0])
    def test_a_pull_is_given_up_while_it_waits_for_the_manifest(
        self, registry: FaultRegistry, pulling: Pulling, after: int
    ) -> None:
        name = registry.add(tiny(), "library/tiny")
        stall = Stall(after=after)
        registry.fail(manifest(), stall, times=None)
        following = pulling.start(name)
        assert stall.reached.wait(20)
        following.close()
        registry.wait_idle()
        assert isinstance(following.until_over(), Cancelled)

    def test_who_joins_while_the_last_caller_leaves_gets_a_pull_that_works(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Stall(after=MIB), times=1)
        one = pulling.start(name).until_completed(model.weights, MIB)
        course = one.watcher._course
        cancel, joined = course._tell_deserted, []

        def join_first() -> None:
            joined.append(pulling.start(name))
            cancel()

        monkeypatch.setattr(course, "_tell_deserted", join_first)
        one.close()
        joined[0].finish(model)

    def test_closing_ends_every_pull_and_keeps_what_arrived(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        names = [registry.add(model, "library/model"), registry.add(tiny(), "library/tiny")]
        registry.fail(blob(model.weights), Stall(after=2 * MIB), times=None)
        registry.fail(manifest("library/tiny"), Stall(), times=None)
        with Pulling(store_path, connections_per_blob=1) as pulling:
            one, two = (pulling.start(name) for name in names)
            one.until_completed(model.weights, 2 * MIB)
        assert isinstance(one.until_over(), Cancelled)
        assert isinstance(two.until_over(), Cancelled)
        registry.heal()
        with Pulling(store_path) as pulling:
            assert pulling.pull(names[0], model).first(model.weights) == 2 * MIB

    def test_after_closing_nothing_is_begun(self, pulling: Pulling) -> None:
        pulling.close()
        with pytest.raises(Cancelled):
            pulling.start("tiny")

    def test_nothing_is_left_open_by_pulls_that_end_in_every_way(
        self, registry: FaultRegistry, blob_host: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.redirect_blobs_to(blob_host)
        other = blob_host.add(tiny(), "library/tiny")
        before = len(open_descriptors())
        with Pulling(store_path, stall_timeout=0.5) as pulling:
            blob_host.fail(blob(model.weights), Stall(after=MIB), times=None)
            for _ in range(5):
                pulling.start(name).until_committed().close()
                pulling.start(name).close()
            blob_host.fail(blob(model.weights), Stall(after=0), times=None)  # no byte more, however often it is asked
            pulling.fail(name, model)
            pulling.fail(f"{registry.host}/library/none")
            pulling.pull(other, tiny())
            blob_host.heal()
            pulling.pull(name, model)
        eventually(lambda: len(open_descriptors()) <= before, "every connection to close")


class TestRecovering:
    """What an interrupted pull left is there, but not as it was."""

    @pytest.fixture
    def name(self, registry: FaultRegistry, pulling: Pulling, model: Model) -> str:
        """A pull of `model` that stopped with its first eight blocks on disk."""
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Stall(after=8 * MIB), times=1)
        pulling.start(name).until_completed(model.weights, 8 * MIB).close()
        registry.wait_idle()
        registry.reset()
        eventually(lambda: not list(pulling.layout.locks.iterdir()), "the locks to be given back")
        return name

    def test_a_block_that_was_damaged_on_disk_is_fetched_again_and_no_other(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, name: str
    ) -> None:
        with open(pulling.staged(model.weights) / "data", "r+b") as file:
            file.seek(3 * MIB + 5)
            file.write(b"damage")
        pulling.pull(name, model)
        assert (3 * MIB, 4 * MIB) in registry.ranges_sent(model.weights)
        assert registry.bytes_sent(model.weights) == model.weights.size - 7 * MIB

    def test_every_block_that_was_damaged_is_fetched_again(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, name: str
    ) -> None:
        with open(pulling.staged(model.weights) / "data", "r+b") as file:
            file.write(bytes(8 * MIB))
        pulling.pull(name, model)
        assert registry.bytes_sent(model.weights) == model.weights.size

    def test_without_its_journal_nothing_on_disk_is_believed(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, name: str
    ) -> None:
        (pulling.staged(model.weights) / "journal").unlink()
        assert pulling.pull(name, model).first(model.weights) == 0
        assert registry.bytes_sent(model.weights) == model.weights.size

    def test_a_journal_that_is_damaged_costs_what_it_does_not_tell_any_more(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, name: str
    ) -> None:
        path = pulling.staged(model.weights) / "journal"
        raw = bytearray(path.read_bytes())
        raw[TABLE_AT + 7 * 8 + 3] ^= 1  # of the last block that is there
        path.write_bytes(raw + b"torn")
        pulling.pull(name, model)
        assert registry.bytes_sent(model.weights) == model.weights.size - 7 * MIB

    def test_without_its_data_all_is_fetched_again(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, name: str
    ) -> None:
        (pulling.staged(model.weights) / "data").unlink()
        pulling.pull(name, model)
        assert registry.bytes_sent(model.weights) == model.weights.size

    def test_data_that_was_cut_off_is_fetched_again_where_it_is_missing(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, name: str
    ) -> None:
        with open(pulling.staged(model.weights) / "data", "r+b") as file:
            file.truncate(6 * MIB)
        pulling.pull(name, model)
        assert registry.bytes_sent(model.weights) == model.weights.size - 6 * MIB

    def test_a_journal_that_vouches_for_wrong_bytes_is_found_out_by_the_digest(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, name: str
    ) -> None:
        from towline.transfer.journal import Journal

        folder = pulling.staged(model.weights)
        with open(folder / "data", "r+b") as file:
            file.write(bytes(MIB))
        journal = Journal(str(folder / "journal"), model.weights.size, model.weights.digest)
        journal.recover()
        journal.append(0, memoryview(bytes(MIB)))
        journal.close()
        pulling.pull(name, model)

    def test_a_whole_blob_that_was_never_published_is_not_fetched_again(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.config), Stall(), times=1)
        following = pulling.start(name)
        eventually(lambda: (pulling.staged(model.weights) / "whole").exists(), "the weights to be whole")
        following.close()
        registry.reset()
        pulling.pull(name, model)
        assert not registry.blob_requests(model.weights)


def in_threads(count: int, call: Callable[[int], object]) -> None:
    """Calls from as many threads at once; raises what any of them did."""
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            call(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_a_name_keeps_the_spelling_that_came_first(registry: FaultRegistry, pulling: Pulling) -> None:
    small, newer = tiny(), tiny(seed=1)
    pulling.pull(registry.add(small, "Library/Tiny", "Latest"), small)
    registry.put_manifest("Library/Tiny", "Latest", newer.manifest)
    registry.add(newer, "Library/Tiny", "Latest")
    pulling.pull(f"{registry.host}/library/tiny", newer)
    (stored,) = pulling.puller.store.list()
    assert stored.name == ModelName(registry.host, "Library", "Tiny", "Latest")
