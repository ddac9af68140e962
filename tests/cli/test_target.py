"""Which server a command means, and that it says so."""

from __future__ import annotations

import signal
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.servers import LARGE, OLLAMA_MODEL, an_ollama, answering, towline_over
from tests.cli.support import Command
from tests.cli.test_models import put
from tests.conftest import DaemonFactory
from tests.support import models
from tests.support.certificates import Authority
from tests.support.daemon import TOWLINE
from tests.support.exchanges import blob
from tests.support.faults import Stall
from tests.support.listener import unused_port
from tests.support.network import alone
from tests.support.registry import FaultRegistry

Naming = Callable[[str], tuple[tuple[str, ...], dict[str, str]]]

COMMANDS = [("pull", "llama3.2"), ("list",), ("path", "llama3.2")]


@pytest.fixture(params=["--host", "OLLAMA_HOST"])
def named(request: pytest.FixtureRequest) -> Naming:
    """How a server is named: the arguments and the environment."""
    if request.param == "--host":
        return lambda host: (("--host", host), {})
    return lambda host: ((), {"OLLAMA_HOST": host})


def test_a_pull_goes_where_the_server_is_that_is_named(
    towline: Command,
    registry: FaultRegistry,
    daemon_factory: DaemonFactory,
    named: Naming,
    tmp_path: Path,
    store_path: Path,
) -> None:
    other = daemon_factory(tmp_path / "other")
    arguments, environment = named(f"http://{other.host}")
    result = towline.run("pull", registry.add(models.tiny(), "library/tiny"), *arguments, env=environment)
    assert (result.code, result.said) == (0, [])
    assert (result.by, result.without_effect) == (other.url, "OLLAMA_MODELS")
    assert len(other.request("GET", "/api/tags").json["models"]) == 1
    assert not store_path.exists()


def test_a_list_is_of_the_server_that_is_named(
    towline: Command, daemon_factory: DaemonFactory, named: Naming, tmp_path: Path, store_path: Path
) -> None:
    theirs = models.tiny(1)
    put(tmp_path / "other", "theirs", theirs, age=90)
    put(store_path, "ours", models.tiny(2))
    other = daemon_factory(tmp_path / "other")
    arguments, environment = named(other.host)
    result = towline.run("list", *arguments, env=environment)
    assert result.lines[1].split(maxsplit=4)[:2] == ["theirs:latest", theirs.digest.short]
    assert result.lines[1].endswith("    About a minute ago")
    assert len(result.lines) == 2
    assert (result.by, result.without_effect) == (other.url, "OLLAMA_MODELS")
    assert towline.run("list", "our", *arguments, env=environment).lines == ["NAME    ID    SIZE    MODIFIED"]
    (entry,) = towline.run("list", "--json", *arguments, env=environment).json["models"]
    assert (entry["name"], entry["digest"], entry["size"]) == ("theirs:latest", theirs.digest.hex, theirs.size)


def test_the_path_of_a_model_elsewhere_is_not_looked_for_here(
    towline: Command, daemon_factory: DaemonFactory, named: Naming, tmp_path: Path, store_path: Path
) -> None:
    for store in (tmp_path / "other", store_path):
        put(store, "llama3.2", models.tiny())
    other = daemon_factory(tmp_path / "other")
    arguments, environment = named(other.host)
    sentence = towline.run("path", "llama3.2", *arguments, env=environment).failed()
    assert sentence.startswith(f"the weights of llama3.2:latest lie in the store of the daemon at {other.url}, on its")
    assert "--local" in sentence


def test_the_path_of_a_model_in_the_store_that_the_daemon_keeps_is_told(
    towline: Command, daemon_factory: DaemonFactory, named: Naming, store_path: Path
) -> None:
    put(store_path, "llama3.2", models.tiny())
    arguments, environment = named(daemon_factory().host)
    assert towline.run("path", "llama3.2", *arguments, env=environment).out.startswith(str(store_path))


@pytest.mark.parametrize("form", ["http://127.0.0.1:{}/", "'\"127.0.0.1:{}\"'", "0.0.0.0:{}", ":{}", "localhost:{}"])
def test_a_server_is_named_in_every_form(
    towline: Command, daemon_factory: DaemonFactory, named: Naming, store_path: Path, form: str
) -> None:
    daemon = daemon_factory()
    arguments, environment = named(form.format(daemon.port))
    assert towline.run("list", *arguments, env=environment).by.endswith(f":{daemon.port}")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
def test_a_server_that_is_named_and_does_not_answer_is_not_replaced_in_silence(
    towline: Command, named: Naming, store_path: Path, command: tuple[str, ...]
) -> None:
    put(store_path, "llama3.2", models.tiny())
    port = unused_port()
    arguments, environment = named(f"127.0.0.1:{port}")
    sentence = towline.run(*command, *arguments, env=environment).failed()
    assert sentence.startswith("--host names" if arguments else "OLLAMA_HOST names")
    assert f"http://127.0.0.1:{port} refuses connections" in sentence
    assert sentence.endswith("or do it here with --local")


def test_local_does_it_here_whatever_the_environment_names(
    towline: Command, registry: FaultRegistry, store_path: Path
) -> None:
    towline.environment["OLLAMA_HOST"] = f"127.0.0.1:{unused_port()}"
    model = models.tiny()
    name = registry.add(model, "library/tiny")
    pulled = towline.run("pull", "--local", name)
    assert (pulled.code, pulled.err) == (0, "")
    assert len(towline.run("list", "--local").lines) == 2
    assert towline.run("path", "--local", name).out.startswith(str(store_path))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
def test_what_is_no_server_of_ollamas_api_is_told(towline: Command, command: tuple[str, ...]) -> None:
    for answers in ({"/towline/info": b"<html>", "/api/version": b"<html>"}, {}):
        with answering(answers) as server:
            assert "is neither a towline nor an Ollama" in towline.run(*command, "--host", server.host).failed()


class TestAnOllama:
    def test_pulls_where_it_is_named(self, towline: Command, named: Naming, store_path: Path) -> None:
        with answering(an_ollama()) as server:
            arguments, environment = named(server.url)
            result = towline.run("pull", "llama3.2", *arguments, env=environment)
        assert (result.code, result.said, result.by) == (0, [], server.url)
        assert server.pulls == [{"model": "llama3.2"}]
        assert f"{LARGE.short}: 214 MB, done" in result.lines
        assert result.lines[-1].startswith("pulled llama3.2: ")
        assert not store_path.exists()

    def test_tells_events_that_are_those_of_the_wire(self, towline: Command) -> None:
        with answering(an_ollama()) as server:
            result = towline.run("pull", "--json", "llama3.2", "--host", server.host)
        assert result.code == 0
        result.pull()

    def test_draws_bars_that_end_full(self, towline: Command) -> None:
        with answering(an_ollama()) as server:
            drawn = towline.on_terminal("pull", "llama3.2", "--host", server.host).out
        assert "2 of 2 layers here" in drawn or "verifying sha256 digest" in drawn
        assert drawn.count("100 %") >= 2

    def test_says_nothing_of_small_layers_and_that_is_no_model_that_is_up_to_date(self, towline: Command) -> None:
        steps = ("pulling manifest", "verifying sha256 digest", "writing manifest", "success")
        with answering(an_ollama(pull=[{"status": step} for step in steps])) as server:
            assert towline.run("pull", "small", "--host", server.host).lines[-1] == "pulled small"

    def test_fails_with_its_own_sentence(self, towline: Command) -> None:
        error = "pull model manifest: file does not exist"
        with answering(an_ollama(pull=[{"status": "pulling manifest"}, {"error": error}])) as server:
            assert towline.run("pull", "nothing", "--host", server.host).failed() == error

    def test_lists_what_it_has(self, towline: Command) -> None:
        with answering(an_ollama(models=[OLLAMA_MODEL])) as server:
            result = towline.run("list", "--host", server.host)
        assert result.by == server.url
        assert result.lines[1].split()[:4] == ["127.0.0.1:5001/ns/m:t", "a75e2a8dddec", "4.6", "KB"]

    def test_takes_none_of_the_settings_of_the_command(self, towline: Command) -> None:
        environment = {"TOWLINE_MIRRORS": "a=http://b", "TOWLINE_KEEP_TRYING": "1"}
        with answering(an_ollama()) as server:
            result = towline.run("pull", "llama3.2", "--host", server.host, "--max-rate", "1MB/s", env=environment)
        assert result.without_effect == "OLLAMA_MODELS, TOWLINE_MIRRORS, --max-rate, TOWLINE_KEEP_TRYING"


DIFFERENT = {
    "TOWLINE_MIRRORS": "registry.example=http://127.0.0.1:1",
    "TOWLINE_PLAIN_HTTP": "registry.example:5000",
    "TOWLINE_CONNECTIONS": "3",
    "TOWLINE_STALL_TIMEOUT": "60",
    "OLLAMA_NOPRUNE": "1",
}


class TestSettings:
    def test_that_the_daemon_has_otherwise_are_named(
        self, towline: Command, registry: FaultRegistry, daemon_factory: DaemonFactory
    ) -> None:
        name = registry.add(models.tiny(), "library/tiny")
        result = towline.run("pull", name, "--host", daemon_factory().host, env=DIFFERENT)
        assert set(result.without_effect.split(", ")) == set(DIFFERENT)

    def test_that_the_daemon_has_too_are_not(
        self, towline: Command, registry: FaultRegistry, daemon_factory: DaemonFactory
    ) -> None:
        daemon = daemon_factory(environment=DIFFERENT)
        quoted = {variable: f"'{value}'" for variable, value in DIFFERENT.items()}
        result = towline.run(
            "pull", registry.add(models.tiny(), "library/tiny"), "--host", daemon.host, env={**quoted, "X": "1"}
        )
        assert (result.code, result.by, result.without_effect) == (0, daemon.url, "")

    def test_that_reach_the_daemon_are_not(self, towline: Command, store_path: Path) -> None:
        with answering(towline_over(store_path)) as server:
            result = towline.run("pull", "llama3.2", "--host", server.host, "--keep-trying", "--max-rate", "1MB/s")
        assert (result.by, result.without_effect) == (server.url, "")

    def test_a_store_on_the_command_line_that_is_not_the_servers_is_named(
        self, towline: Command, daemon_factory: DaemonFactory, tmp_path: Path
    ) -> None:
        del towline.environment["OLLAMA_MODELS"]
        other = daemon_factory(tmp_path / "other")
        result = towline.run("list", "--host", other.host, "--models", str(tmp_path / "mine"))
        assert (result.code, result.without_effect) == (0, "--models")

    def test_are_not_told_to_whoever_asks_the_daemon(self, daemon_factory: DaemonFactory) -> None:
        told = daemon_factory(environment=DIFFERENT).request("GET", "/towline/info").body
        assert b"registry.example" not in told


class TestTLS:
    def test_is_spoken_with_a_server_that_is_named_so(
        self, towline: Command, named: Naming, authority: Authority
    ) -> None:
        with answering(an_ollama(models=[OLLAMA_MODEL]), tls=authority.server_context()) as server:
            arguments, environment = named(server.url)
            trusting = {**environment, "SSL_CERT_FILE": str(authority.ca)}
            assert towline.run("pull", "llama3.2", *arguments, env=trusting).by == server.url
            assert len(towline.run("list", *arguments, env=trusting).lines) == 2

    def test_checks_the_certificate(self, towline: Command, authority: Authority) -> None:
        with answering(an_ollama(), tls=authority.server_context()) as server:
            sentence = towline.run("list", "--host", server.url).failed()
        assert f"{server.url} has a certificate that cannot be trusted (" in sentence
        assert not server.asked

    def test_that_is_not_spoken_there_is_a_sentence(self, towline: Command) -> None:
        with answering(an_ollama()) as server:
            sentence = towline.run("list", "--host", server.url.replace("http:", "https:")).failed()
        assert "does not speak TLS" in sentence


class TestAPassword:
    def test_is_sent_to_the_server_alone_and_never_shown(self, towline: Command, named: Naming) -> None:
        model = {"name": "m", "size": 1}
        proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), f"http://127.0.0.1:{unused_port()}")
        with answering({f"/ollama{path}": body for path, body in an_ollama(models=[model]).items()}) as server:
            arguments, environment = named(f"http://me:hush@{server.host}/ollama")
            results = [towline.run(*command, *arguments, env={**environment, **proxies}) for command in COMMANDS]
        assert [result.code for result in results] == [0, 0, 1]
        assert {asked.authorization for asked in server.asked} == {f"Basic {b64encode(b'me:hush').decode()}"}
        assert not any("hush" in result.out + result.err for result in results)

    @pytest.mark.parametrize(
        "address", ["http://me:hush@127.0.0.1:{}", "me:hush@127.0.0.1:{}", "x://me:hush@127.0.0.1"]
    )
    @pytest.mark.parametrize("command", [*COMMANDS, ("serve",)], ids=lambda command: str(command[0]))
    def test_is_not_shown_where_the_server_cannot_be_had(
        self, towline: Command, named: Naming, address: str, command: tuple[str, ...]
    ) -> None:
        arguments, environment = named(address.format(unused_port()))
        store = {"OLLAMA_MODELS": "/proc/models"}  # so that a daemon ends at once
        result = towline.run(*command, *arguments, env={**store, **environment})
        assert result.code in (1, 2)
        assert "hush" not in result.out + result.err

    def test_is_not_shown_by_how_to_go_on(
        self, towline: Command, registry: FaultRegistry, daemon_factory: DaemonFactory
    ) -> None:
        model = models.generate(24_000_000)
        name = registry.add(model, "library/tiny")
        registry.fail(blob(model.weights), Stall(after=2_500_001), times=None)
        daemon = daemon_factory()
        with towline.start("pull", "--json", name, "--host", f"http://me:hush@{daemon.host}") as running:
            running.read_until(lambda out: b'"completed"' in out)
            running.send(signal.SIGINT)
            result = running.wait()
        assert result.failed(130).endswith(f"go on with: towline pull --host {daemon.url} {name}")


class TestTheDefaultAddress:
    """In a network of its own: this machine's default address may be anybody's."""

    @pytest.fixture
    def environment(self, towline: Command) -> dict[str, str]:
        return {**towline.environment, "PATH": f"{TOWLINE.parent}:{towline.environment['PATH']}"}

    SERVE = """
        towline serve {options} 2>/dev/null & server=$!
        trap 'kill $server; wait $server' EXIT
        until towline list --host 127.0.0.1:11434 >/dev/null 2>&1; do sleep 0.05; done
    """

    def test_has_a_daemon_over_the_same_store_that_does_it_and_that_is_said(self, environment: dict[str, str]) -> None:
        done = alone(self.SERVE.format(options="") + "towline pull 127.0.0.1:9/library/x", environment)
        by, failure = done.stderr.splitlines()
        assert by == "towline: pulled by the daemon at http://127.0.0.1:11434, which has its own settings"
        assert "127.0.0.1:9" in failure

    @pytest.mark.parametrize("options", [(), ("--local",)], ids=str)
    def test_is_not_asked_where_another_store_is_kept_or_this_process_is_meant(
        self, environment: dict[str, str], store_path: Path, tmp_path: Path, options: tuple[str, ...]
    ) -> None:
        put(store_path, "ours", models.tiny())
        serve = self.SERVE.format(options="" if options else f"--models {tmp_path / 'other'}")
        pull = f"towline pull {' '.join(options)} 127.0.0.1:9/library/x || towline list {' '.join(options)}"
        done = alone(serve + pull, environment)
        assert " by the daemon at " not in done.stderr
        assert "ours:latest" in done.stdout

    def test_may_be_an_ollama_which_is_left_alone_unless_it_is_named(
        self, environment: dict[str, str], store_path: Path
    ) -> None:
        put(store_path, "ours", models.tiny())
        script = """
            mkfifo "$HOME/end"
            python -m tests.cli.servers < "$HOME/end" > "$HOME/asked" & ollama=$!
            exec 3> "$HOME/end"
            until towline list --host 0.0.0.0 >/dev/null 2>&1; do sleep 0.05; done
            towline list
            {naming} towline pull 127.0.0.1:9/library/x || true
            exec 3>&-
            wait $ollama
        """
        environment = {**environment, "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(store_path)}
        alone_ = alone(script.replace("{naming}", ""), environment)
        assert "ours:latest" in alone_.stdout
        assert " by the daemon at " not in alone_.stderr
        assert "/api/pull" not in (store_path / "asked").read_text()
        (store_path / "end").unlink()
        named = alone(script.replace("{naming}", "OLLAMA_HOST=127.0.0.1:11434"), environment)
        assert "pulled by the daemon at http://127.0.0.1:11434, which has its own settings" in named.stderr
        assert "/api/pull" in (store_path / "asked").read_text()

    def test_with_nobody_there_is_replaced_without_a_word(self, environment: dict[str, str], store_path: Path) -> None:
        put(store_path, "ours", models.tiny())
        done = alone("towline list; towline path ours", environment)
        assert (done.returncode, done.stderr) == (0, "")
