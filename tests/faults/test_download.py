"""Downloads from a registry that fails in every way it can, and a pull that ends well nevertheless."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.events import check_pull
from tests.support.exchanges import Exchange, Match, blob, both, covering
from tests.support.faults import (
    Chunked,
    Close,
    Compressed,
    Delay,
    Fault,
    Flip,
    Header,
    IgnoreRange,
    Longer,
    Redirect,
    Replace,
    Reset,
    Shorter,
    Slow,
    Stall,
    Status,
    Undelimited,
    WrongLength,
    WrongRange,
    web_page,
)
from tests.support.models import Model, generate, tiny
from tests.support.pulling import Pulling
from tests.support.registry import FaultRegistry
from towline.errors import DigestMismatch, TransferError
from towline.settings import Mirror
from towline.transfer.segments import SEGMENT_BYTES

MIB = 1 << 20
SIZE = 18 * MIB


@pytest.fixture(scope="module")
def model() -> Model:
    """Large enough for two segments, of which the second can be divided."""
    return generate(SIZE, seed=7)


def starting_at(offset: int) -> Match:
    """A request for a range that starts there."""
    return lambda exchange: (exchange.range or (0, None))[0] == offset


def ranged(exchange: Exchange) -> bool:
    """A request that leaves the blob's first bytes out."""
    return exchange.range is not None and exchange.range[0] > 0


class TestCured:
    """What passes: the pull goes on, and every byte is right."""

    @pytest.mark.parametrize(
        ("fault", "times"),
        [
            (Reset(), 1),
            (Reset(), 2),
            (Reset(after=0), 2),
            (Reset(after=MIB + 17), 3),
            (Close(), 2),
            (Close(after=0), 2),
            (Close(after=1), 3),
            (Close(after=3 * MIB - 1), 3),
            (Status(500), 2),
            (Status(502), 1),
            (Status(503), 2),
            (Status(429), 2),
            (Status(408), 1),
            (Status(503, retry_after=0), 3),
            (Status(429, retry_after=1), 1),
            (Status(503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), 1),
            (Status(429, retry_after="-5"), 1),
            (Status(429, retry_after="soon"), 1),
            (Delay(0.1), 3),
            (WrongRange(shift=1), 1),
            (WrongRange(shift=-1), 1),
            (WrongRange(grow=1), 1),
            (Header("Content-Range", None), 1),
            (Header("Content-Range", "bytes nonsense"), 1),
            (Header("Content-Range", "bytes 0-0/1 extra"), 1),
            (WrongLength(-5), 1),
            (WrongLength(5), 1),
            (Longer(3), 1),
            (Shorter(3), 1),
            (Compressed(), 1),
            (Chunked(), None),
            (Undelimited(), None),
            (IgnoreRange(), 3),
            (web_page(), 1),
            (Replace(b""), 1),
            (Slow(40 * MIB), 2),
        ],
        ids=str,
    )
    def test_a_pull_survives(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, fault: Fault, times: int | None
    ) -> None:
        name = registry.add(model, "library/model")
        rule = registry.fail(blob(model.weights), fault, times=times)
        pulling.pull(name, model)
        assert rule.hits > 0

    def test_a_server_that_never_honours_ranges_is_enough(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(), IgnoreRange(), times=None)
        pulling.pull(name, model)

    def test_a_server_that_never_honours_ranges_and_breaks_off_is_enough(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), IgnoreRange(), times=None)
        registry.fail(blob(model.weights), Close(after=17 * MIB), times=2)
        with Pulling(store_path, connections_per_blob=1) as pulling:
            pulling.pull(name, model)

    def test_a_server_that_sends_less_than_the_range_asked_for_is_asked_for_the_rest(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        class Half:
            """206 with the first half of what was asked for, and a Content-Range that says so."""

            def apply(self, answer: object) -> None:
                from tests.support.wire import Answer

                assert isinstance(answer, Answer)
                half = max(1, len(answer.body) // 2)
                answer.body = answer.body[:half]
                answer.headers["Content-Length"] = str(half)
                answer.headers["Content-Range"] = (
                    f"bytes {answer.offset}-{answer.offset + half - 1}/{len(answer.whole)}"
                )

        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Half(), times=4)
        with Pulling(store_path, connections_per_blob=1) as pulling:
            pulling.pull(name, model)
        sent = registry.ranges_sent(model.weights)
        assert sum(stop - start for start, stop in sent) == model.weights.size

    def test_after_a_reset_only_what_is_missing_is_asked_for(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Reset(after=3 * MIB), times=1)
        with Pulling(store_path, connections_per_blob=1) as pulling:
            pulling.pull(name, model)
        # A reset may cost what the client's system had not handed over yet; it never costs the whole again.
        assert registry.bytes_sent(model.weights) <= model.weights.size + 3 * MIB

    def test_after_a_body_that_ends_early_exactly_the_rest_is_asked_for(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Close(after=3 * MIB + 5), times=2)
        with Pulling(store_path, connections_per_blob=1) as pulling:
            pulling.pull(name, model)
        assert registry.bytes_sent(model.weights) == model.weights.size

    def test_a_registry_that_restarts_is_waited_for(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Stall(after=2 * MIB), times=None)
        following = pulling.start(name).until_completed(model.weights, 2 * MIB)
        registry.stop()
        registry.heal()
        registry.start()
        following.finish(model)

    def test_a_registry_that_is_down_for_a_moment_before_the_manifest_is_waited_for(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        small = tiny()
        name = registry.add(small, "library/model")
        registry.stop()
        following = pulling.start(name)
        following.watcher.wait(0.05)
        registry.start()
        following.finish(small)

    def test_a_stalled_connection_is_overtaken_by_another(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        stall = Stall(after=MIB)
        registry.fail(both(blob(model.weights), starting_at(0)), stall, times=1)
        pulling.pull(name, model)
        assert stall.reached.is_set()

    def test_what_came_before_a_connection_fell_silent_is_on_disk_while_it_is(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        stall = Stall(after=100_000)
        registry.fail(both(blob(model.weights), starting_at(0)), stall, times=None)
        following = pulling.start(name).until_completed(model.weights, 100_000)
        stall.release()
        following.finish(model)

    def test_a_slow_connection_among_fast_ones_does_not_hold_the_pull_up(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(both(blob(model.weights), starting_at(0)), Slow(20_000), times=1)
        pulling.pull(name, model)

    def test_a_server_whose_first_byte_takes_longer_than_a_second_is_given_the_time(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        small = tiny()
        name = registry.add(small, "library/model")
        registry.fail(blob(), Delay(1.3), times=None)
        pulling.pull(name, small)


class TestFinal:
    """What does not pass: a clear error, in time, and what arrived is kept."""

    @pytest.mark.parametrize(
        ("fault", "says"),
        [
            (Status(404), "does not have blob"),
            (Status(403), "refuses blob"),
            (Status(401), "wants a login"),
            (Status(410), "does not have blob"),
            (Status(416), "answers 416"),
            (Status(204), "answers 204"),
            (Status(302), "answers 302"),
            (Longer(1), "bytes where"),
            (Shorter(1), "bytes where"),
            (WrongRange(grow=5), "where the manifest promises"),
            (WrongRange(shift=5), "were asked for"),
            (Header("Content-Range", None), "does not say which bytes"),
            (Compressed(), "compressed"),
            (web_page(), "bytes where"),
            (Redirect("http://[bad"), "redirects to an address that is none"),
            (Redirect("http://127.0.0.1:99999/x"), "redirects to"),
            (Redirect("http://nowhere.example/x"), "follow; name that host in TOWLINE_PLAIN_HTTP"),
            (Redirect("ftp://127.0.0.1/x"), "without HTTPS"),
            (Redirect("http://user:word@127.0.0.1/x"), "redirects to 127.0.0.1 with a user"),
            (Redirect("file:///etc/passwd"), "redirects to an address without HTTPS"),
            (Redirect("?"), "circles"),
        ],
        ids=str,
    )
    def test_what_waiting_cannot_cure_is_final_without_waiting(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, fault: Fault, says: str
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), fault, times=None)
        error = pulling.fail(name, model)
        assert isinstance(error, TransferError)
        assert says in str(error)
        assert str(model.weights.digest) in str(error)

    @pytest.mark.parametrize(
        "fault",
        [Reset(), Close(), Close(after=0), Status(500), Status(503), Status(429, retry_after=3600), Stall()],
        ids=str,
    )
    def test_anything_else_is_final_after_the_bound_without_a_byte(
        self, registry: FaultRegistry, store_path: Path, model: Model, fault: Fault
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), fault, times=None)
        with Pulling(store_path, stall_timeout=0.5) as pulling:
            assert "no data for 0.5 s" in str(pulling.fail(name, model))

    def test_a_registry_that_goes_away_for_good_is_named_when_the_patience_is_over(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Stall(after=2 * MIB), times=None)
        with Pulling(store_path, stall_timeout=2.0) as pulling:
            following = pulling.start(name).until_completed(model.weights, 2 * MIB)
            registry.stop()
            assert "refuses connections" in str(following.fail(model))

    @pytest.mark.parametrize("dies", [True, False])
    def test_a_blob_host_that_fails_for_good_is_left_for_the_one_that_the_registry_names_then(
        self, registry: FaultRegistry, blob_host: FaultRegistry, store_path: Path, model: Model, dies: bool
    ) -> None:
        name = registry.add(model, "library/model")
        registry.redirect_blobs_to(blob_host)
        blob_host.fail(blob(model.weights), Stall(after=2 * MIB), times=None)
        with Pulling(store_path, stall_timeout=25.0) as pulling, FaultRegistry() as healthy:
            following = pulling.start(name).until_completed(model.weights, 2 * MIB)
            registry.redirect_blobs_to(healthy)
            blob_host.fail(lambda exchange: True, Status(503), times=None)
            if dies:
                blob_host.stop()
            following.finish(model)
            assert healthy.bytes_sent(model.weights) > 0

    @pytest.mark.parametrize("redirected", [False, True])
    def test_a_host_that_has_sent_bytes_and_refuses_connections_for_long_is_waited_for(
        self, registry: FaultRegistry, blob_host: FaultRegistry, store_path: Path, model: Model, redirected: bool
    ) -> None:
        """It restarts: the bound of those that never answered is not for it."""
        name = registry.add(model, "library/model")
        host = blob_host if redirected else registry
        if redirected:
            registry.redirect_blobs_to(blob_host)
        host.fail(blob(model.weights), Stall(after=2 * MIB), times=None)
        with Pulling(store_path, refused_timeout=0.0, stall_timeout=25.0) as pulling:
            following = pulling.start(name).until_completed(model.weights, 2 * MIB)
            host.stop()
            host.heal()
            time.sleep(2)  # so that some tries are in vain
            host.start()
            following.finish(model)

    def test_a_blob_that_never_gets_past_a_point_keeps_what_came_before_it(
        self, registry: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(both(blob(model.weights), covering(17 * MIB)), Status(500), times=None)
        with Pulling(store_path, stall_timeout=0.5, connections_per_blob=1) as pulling:
            pulling.fail(name, model)
            registry.heal()
            registry.reset()
            pulled = pulling.pull(name, model)
        assert pulled.first(model.weights) == SEGMENT_BYTES
        assert registry.bytes_sent(model.weights) == model.weights.size - SEGMENT_BYTES

    def test_a_file_that_the_registry_does_not_have_ends_the_other_downloads_too(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        parts = generate(16 * MIB, layers=4, seed=3)
        name = registry.add(parts, "library/model")
        registry.fail(blob(parts.config), Status(404), times=None)
        registry.fail(blob(parts.weights), Stall(after=1000), times=None)
        assert str(parts.config.digest) in str(pulling.fail(name, parts))
        registry.wait_idle()


class TestWrongBytes:
    """Bytes that come whole and are not what was promised."""

    @pytest.mark.parametrize("offset", [0, 5 * MIB, SIZE - 1])
    def test_a_flipped_bit_is_found_and_the_blob_fetched_again(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, offset: int
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(both(blob(model.weights), covering(offset)), Flip(offset), times=1)
        pulling.pull(name, model)
        assert registry.bytes_sent(model.weights) >= 2 * model.weights.size

    def test_a_flipped_bit_in_a_blob_of_one_block_is_found_and_the_blob_fetched_again(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        small = tiny()
        name = registry.add(small, "library/model")
        for each in small.blobs:
            registry.fail(blob(each), Flip(3), times=1)
        pulling.pull(name, small)

    def test_what_stays_wrong_is_an_error_that_names_the_digest(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Flip(MIB), times=None)
        error = pulling.fail(name, model)
        assert isinstance(error, DigestMismatch)
        assert "digest mismatch" in str(error)
        assert str(model.weights.digest) in str(error)
        assert registry.host in str(error)

    def test_a_later_pull_does_not_believe_the_wrong_bytes(
        self, registry: FaultRegistry, pulling: Pulling, model: Model
    ) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Flip(MIB), times=None)
        pulling.fail(name, model)
        registry.heal()
        assert pulling.pull(name, model).first(model.weights) == 0

    def test_wrong_bytes_are_never_published(self, registry: FaultRegistry, pulling: Pulling, model: Model) -> None:
        name = registry.add(model, "library/model")
        registry.fail(blob(model.weights), Flip(MIB), times=None)
        pulling.fail(name, model)
        assert not pulling.puller.store.list()
        assert not Path(pulling.layout.blob(model.weights.digest)).exists()

    def test_after_a_mismatch_the_blob_comes_from_the_other_mirror(
        self, registry: FaultRegistry, blob_host: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        registry.add(model, "library/model")
        blob_host.add(model, "library/model")
        registry.fail(blob(model.weights), Flip(MIB), times=None)
        mirrors = (Mirror("models.example", registry.url), Mirror("models.example", blob_host.url))
        with Pulling(store_path, mirrors=mirrors) as pulling:
            pulling.pull("models.example/library/model", model)
        assert blob_host.bytes_sent(model.weights) >= model.weights.size

    def test_two_mirrors_that_are_both_wrong_are_both_named(
        self, registry: FaultRegistry, blob_host: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        mirrors = (Mirror("models.example", registry.url), Mirror("models.example", blob_host.url))
        for each in (registry, blob_host):
            each.add(model, "library/model")
            each.fail(blob(model.weights), Flip(MIB), times=None)
        with Pulling(store_path, mirrors=mirrors) as pulling:
            error = pulling.fail("models.example/library/model", model)
        assert isinstance(error, DigestMismatch)
        assert registry.host in str(error)
        assert blob_host.host in str(error)

    def test_an_empty_layer_with_the_digest_of_something_is_a_mismatch(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        small = tiny()
        lying = {"mediaType": "x", "digest": str(small.digest), "size": 0}
        registry.add(small, "library/model")
        layers = [*(layer.descriptor for layer in small.layers), lying]
        registry.put_manifest("library/model", "latest", small.with_manifest(layers=layers).manifest)
        assert isinstance(pulling.fail(f"{registry.host}/library/model"), DigestMismatch)

    @pytest.mark.parametrize("by", [-1, 1])
    def test_a_manifest_that_lies_about_a_size_fails_at_once(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, by: int
    ) -> None:
        registry.add(model, "library/model")
        config = {**model.config.descriptor, "size": model.config.size + by}
        registry.put_manifest("library/model", "latest", model.with_manifest(config=config).manifest)
        assert "bytes where" in str(pulling.fail(f"{registry.host}/library/model"))


class TestMirrors:
    """Sources of which some fail."""

    @pytest.fixture
    def mirrored(
        self, registry: FaultRegistry, blob_host: FaultRegistry, store_path: Path, model: Model
    ) -> Callable[..., None]:
        def pull(fault: Fault, times: int | None = None) -> None:
            registry.add(model, "library/model")
            blob_host.add(model, "library/model")
            registry.fail(blob(), fault, times=times)
            mirrors = (Mirror("models.example", registry.url), Mirror("models.example", blob_host.url))
            with Pulling(store_path, mirrors=mirrors, stall_timeout=10.0) as pulling:
                pulling.pull("models.example/library/model", model)

        return pull

    @pytest.mark.parametrize(
        "fault",
        [
            Status(404),
            Status(403),
            Status(500),
            Status(429, retry_after=3600),
            Reset(),
            Close(after=0),
            Close(after=2 * MIB),
            Compressed(),
            Longer(1),
            web_page(),
            IgnoreRange(),
        ],
        ids=str,
    )
    def test_a_mirror_that_fails_for_blobs_is_passed_over(
        self, mirrored: Callable[..., None], blob_host: FaultRegistry, fault: Fault
    ) -> None:
        mirrored(fault)

    def test_a_mirror_that_dies_in_the_middle_is_left_for_the_other(
        self, registry: FaultRegistry, blob_host: FaultRegistry, store_path: Path, model: Model
    ) -> None:
        registry.add(model, "library/model")
        blob_host.add(model, "library/model")
        registry.fail(blob(model.weights), Stall(after=2 * MIB), times=None)
        mirrors = (Mirror("models.example", registry.url), Mirror("models.example", blob_host.url))
        with Pulling(store_path, mirrors=mirrors) as pulling:
            following = pulling.start("models.example/library/model").until_completed(model.weights, 2 * MIB)
            registry.stop()
            following.finish(model)
        assert blob_host.bytes_sent(model.weights) > 0


def test_progress_is_told_with_the_bytes_that_are_on_disk_when_a_pull_fails(
    registry: FaultRegistry, store_path: Path, model: Model
) -> None:
    name = registry.add(model, "library/model")
    registry.fail(blob(model.weights), Close(after=4 * MIB), times=1)
    registry.fail(blob(model.weights), Status(404), times=None, skip=1)
    with Pulling(store_path, connections_per_blob=1) as pulling:
        following = pulling.start(name)
        error = following.until_over()
        told = check_pull([*following.lines, {"error": str(error)}], success=False, model=model)
        registry.heal()
        again = pulling.pull(name, model)
    assert again.first(model.weights) == 4 * MIB
    assert told.completed[str(model.weights.digest)][-1] <= 4 * MIB
