"""`towline pull`, in its own process and through a daemon: it looks and ends the same."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.servers import an_ollama, answering, towline_over
from tests.cli.support import Command
from tests.conftest import DaemonFactory
from tests.support import models
from tests.support.exchanges import blob
from tests.support.faults import Slow, Stall, Status
from tests.support.models import Model
from tests.support.registry import FaultRegistry

MB = 1_000_000

STALL = Stall(after=2_500_001)
"""Over and over: eight connections bring 20 MB, so that a model of 24 MB stays incomplete."""


@pytest.fixture(params=["embedded", "daemon"])
def pulling(request: pytest.FixtureRequest, towline: Command, daemon_factory: DaemonFactory) -> Command:
    """The command with nothing beside it, and with a daemon over the same store."""
    if request.param == "daemon":
        towline.environment["OLLAMA_HOST"] = daemon_factory().host
    return towline


def half_way(running_out: bytes) -> bool:
    """Whether events show that some layer has come to a good part."""
    return any(line.get("completed", 0) > 2 * MB for line in map(json.loads, running_out.splitlines()[:-1]))


def stored(store: Path, model: Model) -> bool:
    """Whether every blob is there, byte for byte."""
    return all((store / "blobs" / each.digest.file_name).read_bytes() == each.data for each in model.blobs)


def test_pulls_a_model(pulling: Command, registry: FaultRegistry, store_path: Path) -> None:
    model = models.generate(12 * MB)
    name = registry.add(model, "library/tiny")
    result = pulling.run("pull", name)
    assert (result.code, result.said) == (0, [])
    assert stored(store_path, model)
    assert result.lines[0] == f"{name}: pulling manifest"
    assert result.lines[-3:-1] == [f"{name}: verifying sha256 digest", f"{name}: writing manifest"]
    assert result.lines[-1].startswith(f"pulled {name}: ")


def test_a_second_pull_says_that_nothing_was_new(pulling: Command, registry: FaultRegistry) -> None:
    name = registry.add(models.tiny(), "library/tiny")
    # Also of a model that comes faster than anyone can look.
    assert pulling.run("pull", name).lines[-1].startswith(f"pulled {name}: 17 KB in ")
    registry.reset()
    assert pulling.run("pull", name).lines[-1] == f"{name} is up to date"
    assert not registry.blob_requests()


def test_prints_the_events_of_the_wire(pulling: Command, registry: FaultRegistry) -> None:
    model = models.generate(8 * MB)
    result = pulling.run("pull", "--json", registry.add(model, "library/tiny"))
    assert (result.code, result.said) == (0, [])
    result.pull(model=model)


def test_a_failure_is_a_sentence_and_in_the_events_as_well(pulling: Command, registry: FaultRegistry) -> None:
    result = pulling.run("pull", "--json", f"{registry.host}/library/nothing")
    sentence = result.failed()
    assert "library/nothing" in sentence
    assert json.loads(result.lines[-1]) == {"error": sentence}


def test_a_failure_in_the_middle_is_one_as_well(pulling: Command, registry: FaultRegistry) -> None:
    model = models.generate(8 * MB)
    name = registry.add(model, "library/tiny")
    registry.fail(blob(model.weights), Status(403), times=None)
    result = pulling.run("pull", "--json", name)
    assert json.loads(result.lines[-1]) == {"error": result.failed()}
    result.pull(model=model, success=False)


def test_several_names_are_pulled_though_one_fails_and_summed_up(
    pulling: Command, registry: FaultRegistry, store_path: Path
) -> None:
    first, last = models.tiny(1), models.tiny(2)
    one, none, two = (
        registry.add(first, "library/a"),
        f"{registry.host}/library/nothing",
        registry.add(last, "library/b"),
    )
    result = pulling.run("pull", one, none, two)
    sentence, summary = result.said
    assert result.code == 1
    assert "library/nothing" in sentence
    assert summary == f"1 of 3 failed: {none}; done: {one}, {two}"
    assert stored(store_path, first)
    assert stored(store_path, last)


def test_several_names_that_all_fail_are_summed_up_too(towline: Command, registry: FaultRegistry) -> None:
    one, two = f"{registry.host}/library/a", f"{registry.host}/library/b"
    result = towline.run("pull", one, two)
    assert (result.code, result.said[-1]) == (1, f"2 of 2 failed: {one}, {two}; done: none")


def test_several_names_that_all_come_need_no_summary(towline: Command, registry: FaultRegistry) -> None:
    result = towline.run("pull", registry.add(models.tiny(1), "library/a"), registry.add(models.tiny(2), "library/b"))
    assert (result.code, result.said) == (0, [])


def test_a_name_that_is_none_is_told_apart_from_the_others(pulling: Command, registry: FaultRegistry) -> None:
    result = pulling.run("pull", "a//b", registry.add(models.tiny(), "library/tiny"))
    assert result.code == 2
    assert result.said[0].startswith("a//b: invalid model name")
    assert result.lines[-1].startswith("pulled ")


def test_a_pull_that_failed_outweighs_a_name_that_is_none(towline: Command, registry: FaultRegistry) -> None:
    assert towline.run("pull", "a//b", f"{registry.host}/library/nothing").code == 1


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=lambda value: str(value),
)
def test_an_interrupted_pull_says_how_to_go_on_and_does(
    pulling: Command, registry: FaultRegistry, store_path: Path, number: signal.Signals, code: int
) -> None:
    model = models.generate(24 * MB)
    name = registry.add(model, "library/tiny")
    registry.fail(blob(model.weights), STALL, times=None)
    with pulling.start("pull", "--json", name) as running:
        running.read_until(half_way)
        running.send(number)
        interrupted = running.wait()
    assert interrupted.failed(code).endswith(f"kept, go on with: towline pull {name}")
    registry.heal()
    registry.wait_idle()
    result = pulling.run("pull", "--json", name)
    assert result.pull(model=model).first(model.weights) > MB
    assert stored(store_path, model)


def test_a_killed_pull_goes_on_where_it_stood(towline: Command, registry: FaultRegistry, store_path: Path) -> None:
    model = models.generate(24 * MB)
    name = registry.add(model, "library/tiny")
    registry.fail(blob(model.weights), STALL, times=None)
    with towline.start("pull", "--json", name) as running:
        running.read_until(half_way)
        running.send(signal.SIGKILL)
        running.wait()
    registry.heal()
    result = towline.run("pull", "--json", name)
    assert result.pull(model=model).first(model.weights) > 0
    assert stored(store_path, model)


def test_what_is_left_of_several_names_is_told(towline: Command, registry: FaultRegistry) -> None:
    done, model = models.tiny(1), models.generate(24 * MB, seed=2)
    names = registry.add(done, "library/a"), registry.add(model, "library/b"), "c:d"
    registry.fail(blob(model.weights), STALL, times=None)
    with towline.start("pull", "--json", *names) as running:
        running.read_until(half_way)
        running.send(signal.SIGINT)
        result = running.wait()
    assert result.failed(130).endswith(f"go on with: towline pull {names[1]} c:d")


def test_a_reader_that_leaves_ends_the_pull(pulling: Command, registry: FaultRegistry) -> None:
    model = models.generate(12 * MB)
    name = registry.add(model, "library/tiny")
    registry.fail(blob(model.weights), Slow(rate=MB / 2), times=None)
    with pulling.start("pull", "--json", name) as running:
        running.read_until(lambda out: b"completed" in out)
        running.hang_up()
        result = running.wait()
    assert (result.code, result.said) == (141, [])
    registry.wait_idle()


def test_the_daemon_does_the_work(towline: Command, registry: FaultRegistry, daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory()
    model = models.generate(24 * MB)
    name = registry.add(model, "library/tiny")
    registry.fail(blob(model.weights), STALL, times=None)
    with towline.start("pull", "--json", name, "--host", daemon.host) as running:
        running.read_until(half_way)
        # The command only watches: when it is killed, the daemon notices and stops by itself.
        running.send(signal.SIGKILL)
        running.wait()
        registry.wait_idle()
    registry.heal()
    assert daemon.pull(name, model=model).first(model.weights) > MB


def test_a_daemon_over_the_same_folder_by_another_path_is_used(
    towline: Command, registry: FaultRegistry, daemon_factory: DaemonFactory, tmp_path: Path, store_path: Path
) -> None:
    daemon = daemon_factory()
    (tmp_path / "link").symlink_to(store_path)
    model = models.generate(24 * MB)
    name = registry.add(model, "library/tiny")
    registry.fail(blob(model.weights), STALL, times=None)
    with towline.start("pull", "--json", name, "--host", daemon.host, "--models", str(tmp_path / "link")) as running:
        running.read_until(half_way)
        daemon.kill()
        registry.wait_idle()
        assert "stopped answering" in running.wait().failed()


def test_a_daemon_that_dies_is_one_sentence(
    towline: Command, registry: FaultRegistry, daemon_factory: DaemonFactory
) -> None:
    daemon = daemon_factory()
    model = models.generate(24 * MB)
    name = registry.add(model, "library/tiny")
    registry.fail(blob(model.weights), STALL, times=None)
    with towline.start("pull", "--json", name, "--host", daemon.host) as running:
        running.read_until(half_way)
        daemon.kill()
        result = running.wait()
    assert "stopped answering; what has arrived is kept" in result.failed()
    result.pull(success=False)


@pytest.mark.parametrize(
    ("arguments", "environment", "limit"),
    [
        ((), {}, {}),
        (("--max-rate", "2MB/s"), {}, {"max_rate": "2MB/s"}),
        ((), {"TOWLINE_MAX_RATE": "3MB/s"}, {"max_rate": "3MB/s"}),
        (("--max-rate", "2MB/s"), {"TOWLINE_MAX_RATE": "3MB/s"}, {"max_rate": "2MB/s"}),
    ],
)
def test_a_daemon_is_told_the_limit_of_the_pull(
    towline: Command, store_path: Path, arguments: tuple[str, ...], environment: dict[str, str], limit: dict[str, str]
) -> None:
    with answering(towline_over(store_path)) as server:
        assert towline.run("pull", "llama3.2", "--host", server.host, *arguments, env=environment).code == 0
    assert server.pulls == [{"model": "llama3.2", "interleave": True} | limit]


@pytest.mark.parametrize(
    ("arguments", "environment", "fields"),
    [
        (("--keep-trying",), {}, {"interleave": True, "keep_trying": True}),
        ((), {"TOWLINE_KEEP_TRYING": "1"}, {"interleave": True, "keep_trying": True}),
        (("--json",), {}, {}),  # which are the events that anyone gets who asks for no more
    ],
)
def test_a_daemon_is_told_how_to_pull(
    towline: Command, store_path: Path, arguments: tuple[str, ...], environment: dict[str, str], fields: dict[str, bool]
) -> None:
    with answering(towline_over(store_path)) as server:
        assert towline.run("pull", "llama3.2", "--host", server.host, *arguments, env=environment).code == 0
    assert server.pulls == [{"model": "llama3.2"} | fields]


def test_a_quiet_pull_says_nothing(pulling: Command, registry: FaultRegistry, store_path: Path) -> None:
    model = models.generate(12 * MB)
    result = pulling.run("pull", "--quiet", registry.add(model, "library/tiny"))
    assert (result.code, result.out, result.err) == (0, "", "")
    assert stored(store_path, model)


def test_a_quiet_pull_says_what_of_its_settings_has_no_effect(
    towline: Command, registry: FaultRegistry, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    daemon = daemon_factory()
    name = registry.add(models.tiny(), "library/tiny")
    result = towline.run(
        "pull", "-q", name, "--models", str(tmp_path / "mine"), env={"OLLAMA_HOST": daemon.host, "OLLAMA_MODELS": ""}
    )
    assert (result.code, result.out, result.said) == (0, "", [])
    assert (result.by, result.without_effect) == (daemon.url, "--models")


class TestADryRun:
    def test_tells_what_would_be_fetched_and_stores_nothing(
        self, pulling: Command, registry: FaultRegistry, store_path: Path
    ) -> None:
        model = models.generate(12 * MB)
        name = registry.add(model, "library/tiny")
        result = pulling.run("pull", "--dry-run", name)
        assert (result.code, result.said) == (0, [])
        assert result.lines == [f"{name}: pulling manifest", f"{name}: 12 MB would be fetched"]
        assert not registry.blob_requests()
        assert not list(store_path.rglob("*/sha256-*"))
        assert pulling.run("pull", "-q", name).code == 0
        assert pulling.run("pull", "--dry-run", name).lines[-1] == f"{name}: nothing would be fetched"

    def test_of_a_newer_version_tells_what_changed(self, towline: Command, registry: FaultRegistry) -> None:
        old = models.generate(12 * MB, layers=2)
        name = registry.add(old, "library/tiny")
        assert towline.run("pull", "-q", name).code == 0
        registry.add(Model.of([*old.layers, models.generate(3 * MB, seed=7).weights]), "library/tiny")
        assert towline.run("pull", "--dry-run", name).lines[-1] == f"{name}: 3.0 MB of 15 MB would be fetched"

    def test_makes_no_store(self, towline: Command, registry: FaultRegistry, store_path: Path) -> None:
        assert towline.run("pull", "--dry-run", registry.add(models.tiny(), "library/tiny")).code == 0
        assert not store_path.exists()

    def test_prints_the_events_of_the_wire(self, pulling: Command, registry: FaultRegistry) -> None:
        model = models.generate(12 * MB)
        result = pulling.run("pull", "--dry-run", "--json", registry.add(model, "library/tiny"))
        events = [json.loads(line) for line in result.lines]
        assert events[0] == {"status": "pulling manifest"}
        assert [(event["digest"], event["completed"]) for event in events[1:-1]] == [
            (str(each.digest), 0) for each in model.blobs
        ]
        assert events[-1] == {"status": "dry run"}

    def test_on_a_terminal_is_a_line_too(self, towline: Command, registry: FaultRegistry) -> None:
        name = registry.add(models.tiny(), "library/tiny")
        assert towline.on_terminal("pull", "--dry-run", name).out.splitlines()[-1] == f"{name}: 17 KB would be fetched"

    def test_that_would_fail_fails(self, pulling: Command, registry: FaultRegistry) -> None:
        assert "library/nothing" in pulling.run("pull", "--dry-run", f"{registry.host}/library/nothing").failed()

    def test_is_not_asked_of_an_ollama_which_would_pull(self, towline: Command) -> None:
        with answering(an_ollama()) as server:
            result = towline.run("pull", "--dry-run", "llama3.2", "--host", server.host)
            sentence = result.failed()
            assert result.by == ""  # as it did nothing
        assert "knows no dry run" in sentence
        assert not server.pulls

    def test_is_asked_of_a_towline(self, towline: Command, store_path: Path) -> None:
        with answering({**towline_over(store_path), "/api/pull": {"status": "dry run"}}) as server:
            result = towline.run("pull", "--dry-run", "llama3.2", "--host", server.host)
        assert (result.code, result.by) == (0, server.url)
        assert server.pulls == [{"model": "llama3.2", "interleave": True, "dry_run": True}]


def test_a_quiet_pull_says_what_failed_and_nothing_else(pulling: Command, registry: FaultRegistry) -> None:
    nothing = f"{registry.host}/library/nothing"
    result = pulling.run("pull", "-q", registry.add(models.tiny(), "library/tiny"), nothing)
    assert (result.code, result.out) == (1, "")
    assert nothing in result.failed()


def test_debugging_shows_no_connection_of_the_library_beneath(towline: Command, registry: FaultRegistry) -> None:
    result = towline.run("pull", registry.add(models.tiny(), "library/tiny"), env={"TOWLINE_DEBUG": "1"})
    assert result.code == 0
    assert "GET /v2/" not in result.err
    assert "HTTP connection" not in result.err


def test_two_pulls_of_one_model_share_its_bytes(towline: Command, registry: FaultRegistry) -> None:
    model = models.generate(12 * MB)
    name = registry.add(model, "library/tiny")
    registry.fail(blob(model.weights), Slow(rate=8 * MB), times=None)
    with towline.start("pull", "--json", name) as one, towline.start("pull", "--json", name) as other:
        for running in (one, other):
            running.wait().pull(model=model)
    # Not twice; a little more than once, since what is taken over from a slow connection may be on its way already.
    assert registry.bytes_sent(model.weights) < 1.5 * model.weights.size


def test_a_store_that_cannot_be_made_is_one_sentence(towline: Command) -> None:
    assert "/proc/models" in towline.run("pull", "llama3.2", "--models", "/proc/models").failed()


def test_bars_on_a_terminal(pulling: Command, registry: FaultRegistry) -> None:
    model = models.generate(12 * MB)
    name = registry.add(model, "library/tiny")
    result = pulling.on_terminal("pull", name)
    assert (result.code, result.said) == (0, [])
    assert model.weights.digest.short in result.out
    assert "━" in result.out
    assert "100 %" in result.out
    assert "\x1b[3" in result.out  # colours
    assert result.out.splitlines()[-1].startswith(f"\x1b[?25hpulled {name}: ")


@pytest.mark.parametrize(
    ("environment", "holds"),
    [
        ({"NO_COLOR": "1"}, lambda out: "\x1b[3" not in out and "━" in out),
        ({"TERM": "dumb"}, lambda out: "\x1b" not in out and "pulling manifest" in out),
        ({"PYTHONIOENCODING": "ascii"}, lambda out: out.isascii() and "100 %" in out),
        ({"LC_ALL": "C"}, lambda out: "100 %" in out),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_terminals_differ(
    towline: Command, registry: FaultRegistry, environment: dict[str, str], holds: Callable[[str], bool]
) -> None:
    result = towline.on_terminal("pull", registry.add(models.tiny(), "library/tiny"), env=environment)
    assert result.code == 0
    assert holds(result.out), result.out


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(towline: Command, registry: FaultRegistry, columns: int) -> None:
    name = registry.add(models.tiny(), "library/tiny")
    drawn = towline.on_terminal("pull", name, env={"NO_COLOR": "1"}, columns=columns).out
    rows = [row for row in drawn.replace("\x1b", "\n\x1b").splitlines() if "%" in row]
    assert rows
    assert all(len(row.split("m")[-1] if row.startswith("\x1b[") else row) <= columns for row in rows)
