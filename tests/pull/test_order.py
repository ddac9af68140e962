"""In which order a pull's layers are told, whatever the order in which they come."""

from __future__ import annotations

from itertools import groupby

import pytest

from tests.support.events import WHOLE_MODEL
from tests.support.exchanges import blob
from tests.support.faults import Stall, Status
from tests.support.models import Blob, Model, generate
from tests.support.pulling import Following, Pulling
from tests.support.registry import FaultRegistry
from towline.model.manifest import TENSOR_LAYER

MIB = 1 << 20


@pytest.fixture(scope="module")
def model() -> Model:
    """Two layers of 4 MiB, and small ones."""
    return generate(8 * MIB, layers=2, seed=31)


@pytest.fixture
def name(registry: FaultRegistry, model: Model) -> str:
    return registry.add(model, "library/ordered")


@pytest.fixture
def stall(registry: FaultRegistry, model: Model) -> Stall:
    """Holds the first layer at 1 MiB; all others come."""
    stall = Stall(after=MIB)
    registry.fail(blob(model.layers[0]), stall, times=None)
    return stall


def tensors(count: int) -> Model:
    """A model with a layer for each tensor."""
    return Model.of([Blob.of(TENSOR_LAYER, b"%d" % number * 1000) for number in range(count)])


def told(following: Following) -> list[str]:
    """The digests in the order in which they were told, neighbours once."""
    return [digest for digest, _ in groupby(line["digest"] for line in following.lines if "digest" in line)]


def until_all_but_the_first(pulling: Pulling, name: str, model: Model) -> Following:
    """Somebody who sees all layers side by side, once all but the first are whole."""
    following = pulling.start(name, interleave=True)
    for each in model.blobs[1:]:
        following.until_completed(each, each.size)
    return following


class TestInOrder:
    def test_the_first_layer_that_is_not_whole_is_told_though_all_others_are(
        self, pulling: Pulling, model: Model, name: str, stall: Stall
    ) -> None:
        one = pulling.start(name).until_completed(model.layers[0], MIB)
        other = until_all_but_the_first(pulling, name, model)
        one.until_completed(model.layers[0], MIB)
        assert told(one) == [str(model.layers[0].digest)]
        stall.release()
        pull = one.finish(model)
        other.finish(model)
        assert told(one) == [str(each.digest) for each in model.blobs]
        assert told(one)[-1] == str(model.config.digest)
        # What came before its turn is told as what it is: fetched by this pull, not found.
        assert pull.completed[str(model.layers[1].digest)] == [0, model.layers[1].size]

    def test_who_joins_late_is_told_first_what_is_there_by_then(
        self, pulling: Pulling, model: Model, name: str, stall: Stall
    ) -> None:
        first = until_all_but_the_first(pulling, name, model)
        late = pulling.start(name).until_committed()
        stall.release()
        first.finish(model)
        pull = late.finish(model)
        assert pull.fetched == {model.layers[0].digest}
        assert pull.first(model.layers[0]) == MIB

    def test_a_pull_that_shares_a_layer_is_told_first_what_another_has_of_it(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, name: str, stall: Stall
    ) -> None:
        first = until_all_but_the_first(pulling, name, model)
        newer = Model.of([model.layers[0], generate(MIB, seed=33).weights])
        other = pulling.start(registry.add(newer, "library/newer")).until_committed()
        stall.release()
        first.finish(model)
        assert other.finish(newer).first(model.layers[0]) == MIB

    def test_layers_that_are_here_are_told_in_their_places(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, name: str
    ) -> None:
        pulling.pull(name, model)
        newer = Model.of([generate(4 * MIB, seed=32).weights, *model.layers])
        stall = Stall(after=MIB)
        registry.fail(blob(newer.layers[0]), stall, times=None)
        following = pulling.start(registry.add(newer, "library/newer")).until_completed(newer.layers[0], MIB)
        assert told(following) == [str(newer.layers[0].digest)]
        stall.release()
        pull = following.finish(newer)
        for each in model.layers:
            assert pull.completed[str(each.digest)] == [each.size]

    def test_what_an_interrupted_pull_left_of_a_later_layer_is_its_first_event(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, name: str
    ) -> None:
        registry.fail(blob(model.layers[1]), Stall(after=2 * MIB), times=None)
        pulling.start(name, interleave=True).until_completed(model.layers[1], 2 * MIB).close()
        registry.wait_idle()
        registry.heal()
        assert pulling.pull(name, model).first(model.layers[1]) == 2 * MIB

    def test_a_pull_that_fails_in_a_later_layer_keeps_the_order(
        self, registry: FaultRegistry, pulling: Pulling, model: Model, name: str, stall: Stall
    ) -> None:
        registry.fail(blob(model.layers[1]), Status(404), times=None)
        assert "does not have blob" in str(pulling.fail(name, model))


class TestInterleaved:
    def test_every_layer_is_told_at_once_and_then_as_it_moves(
        self, pulling: Pulling, model: Model, name: str, stall: Stall
    ) -> None:
        following = until_all_but_the_first(pulling, name, model)
        digests = [line["digest"] for line in following.lines if "digest" in line]
        assert digests[: len(model.blobs)] == [str(each.digest) for each in model.blobs]
        stall.release()
        assert following.finish(model).fetched == {each.digest for each in model.blobs}

    def test_a_layer_that_an_interrupted_pull_made_whole_shows_one_event(
        self, pulling: Pulling, registry: FaultRegistry, model: Model, name: str, stall: Stall
    ) -> None:
        until_all_but_the_first(pulling, name, model).close()
        registry.wait_idle()
        registry.heal()
        pull = pulling.start(name, interleave=True).finish(model)
        assert pull.fetched == {model.layers[0].digest}

    def test_a_layer_that_is_here_already_shows_one_event(self, pulling: Pulling, model: Model, name: str) -> None:
        pulling.pull(name, model)
        pull = pulling.start(name, interleave=True).finish(model)
        assert pull.completed == {str(each.digest): [each.size] for each in model.blobs}


class TestAModelOfTensors:
    def test_it_is_told_as_one(self, registry: FaultRegistry, pulling: Pulling) -> None:
        model = tensors(200)
        pull = pulling.pull(registry.add(model, "library/tensors"), model)
        values = pull.completed[WHOLE_MODEL]
        assert (values[0], values[-1]) == (0, model.size)
        assert pull.totals == {WHOLE_MODEL: model.size}

    def test_its_line_is_as_ollama_sends_it(self, registry: FaultRegistry, pulling: Pulling) -> None:
        model = tensors(3)
        following = pulling.start(registry.add(model, "library/tensors"))
        following.finish(model)
        first = next(line for line in following.lines if "digest" in line)
        assert first == {"status": "pulling model", "digest": "sha256:model", "total": model.size, "completed": 0}

    def test_what_is_here_already_counts_from_the_first_event_on(
        self, registry: FaultRegistry, pulling: Pulling
    ) -> None:
        some, more = tensors(40), tensors(60)
        pulling.pull(registry.add(some, "library/tensors"), some)
        pull = pulling.pull(registry.add(more, "library/tensors"), more)
        assert pull.completed[WHOLE_MODEL][0] == sum(each.size for each in some.layers)

    def test_with_nothing_new_it_shows_one_event(self, registry: FaultRegistry, pulling: Pulling) -> None:
        model = tensors(40)
        name = registry.add(model, "library/tensors")
        pulling.pull(name, model)
        assert pulling.pull(name, model).completed == {WHOLE_MODEL: [model.size]}

    def test_it_stands_below_its_total_while_one_tensor_lacks(self, registry: FaultRegistry, pulling: Pulling) -> None:
        model = tensors(40)
        stall = Stall()
        registry.fail(blob(model.layers[20]), stall, times=None)
        name = registry.add(model, "library/tensors")
        rest = model.size - model.layers[20].size
        one = pulling.start(name)
        assert one.until_completed(WHOLE_MODEL, rest).completed[WHOLE_MODEL] == rest
        stall.release()
        one.finish(model)

    def test_one_tensor_layer_among_others_makes_it_one(self, registry: FaultRegistry, pulling: Pulling) -> None:
        mixed = tensors(3).with_layer(Blob.of("application/vnd.ollama.image.license", "MIT"))
        assert pulling.pull(registry.add(mixed, "library/mixed"), mixed).totals == {WHOLE_MODEL: mixed.size}

    def test_interleaved_each_layer_is_told(self, registry: FaultRegistry, pulling: Pulling) -> None:
        model = tensors(40)
        pull = pulling.start(registry.add(model, "library/tensors"), interleave=True).finish(model)
        assert pull.totals == {str(each.digest): each.size for each in model.blobs}
