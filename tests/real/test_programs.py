"""`curl`, scripts with `requests` and `tqdm`, and the `towline` command: programs in processes of their own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from tests.cli.support import Command
from tests.conftest import DaemonFactory
from tests.real.stores import check_stored
from tests.support.components import require
from tests.support.daemon import Daemon, clean_environment
from tests.support.docker_registry import DockerRegistry
from tests.support.events import Line, check_pull
from tests.support.exchanges import blob
from tests.support.faults import Stall, Status
from tests.support.models import Model, generate, tiny
from tests.support.registry import FaultRegistry

MB = 1_000_000


class Program:
    """A program that runs, and what it prints."""

    def __init__(self, command: list[str | Path], home: Path) -> None:
        self._process = subprocess.Popen(
            command,
            env=clean_environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[Line] = []

    def until(self, condition: Callable[[Line], bool]) -> None:
        """Reads NDJSON up to the first line that is so."""
        assert self._process.stdout
        for text in self._process.stdout:
            self.lines.append(json.loads(text))
            if condition(self.lines[-1]):
                return
        raise AssertionError(f"it ended first: {self.lines[-3:]}")

    def finish(self) -> tuple[int, str, str]:
        """Its exit code, and the rest of what it printed."""
        with contextlib.closing(self):
            out, err = self._process.communicate(timeout=60)
            return self._process.returncode, out, err

    def close(self) -> None:
        """Ends it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe
            pipe.close()


class TestCurl:
    @pytest.fixture
    def curl(self, lasting_daemon: Daemon, tmp_path: Path) -> Callable[..., Program]:
        """Starts `curl … <daemon>/api/pull -d <body>`, without a content type."""

        def start(body: dict[str, object], *options: str) -> Program:
            command = [require("curl"), "--silent", "--show-error", f"{lasting_daemon.url}/api/pull"]
            return Program([*command, "-d", json.dumps(body), *options], tmp_path / "home")

        return start

    def test_it_pulls_streamed_and_at_once(
        self, curl: Callable[..., Program], lasting_daemon: Daemon, docker_registry: DockerRegistry
    ) -> None:
        name = docker_registry.push(tiny(1), "library/curl")
        code, out, err = curl({"model": name}).finish()
        assert (code, err) == (0, "")
        check_pull([json.loads(line) for line in out.splitlines()], model=tiny(1))
        check_stored(lasting_daemon.store, name, tiny(1))
        code, out, _ = curl({"model": name, "stream": False}).finish()
        assert (code, json.loads(out)) == (0, {"status": "success"})

    def test_lines_come_as_they_happen(self, curl: Callable[..., Program], registry: FaultRegistry) -> None:
        model = generate(12 * MB, seed=2)
        stall = Stall(after=2 * MB)
        registry.fail(blob(model.weights), stall, times=None)
        with contextlib.closing(curl({"model": registry.add(model, "library/stalls")}, "-N")) as program:
            program.until(lambda line: 0 < line.get("completed", 0) < line.get("total", 0))
            stall.release()
            program.until(lambda line: line == {"status": "success"})
            check_pull(program.lines, model=model)

    @pytest.mark.parametrize("stream", [True, False], ids=["streamed", "at once"])
    @pytest.mark.parametrize(
        ("name", "status", "says"),
        [("../../etc", 400, "invalid model name"), ("{host}/library/none", 404, "not found")],
    )
    def test_an_error_has_its_status_and_is_json(
        self,
        curl: Callable[..., Program],
        registry: FaultRegistry,
        name: str,
        status: int,
        says: str,
        stream: bool,
    ) -> None:
        body = {"model": name.format(host=registry.host), "stream": stream}
        _, out, _ = curl(body, "--write-out", "\n%{http_code}").finish()
        error, code = out.rsplit("\n", 1)
        assert code == str(status)
        assert says in json.loads(error)["error"]


# As such scripts are written everywhere: `total` in a line is taken to mean that `completed` is there too.
SCRIPT = """\
import json
import sys

import requests
from tqdm import tqdm

url, model = sys.argv[1:]
response = requests.post(f"{url}/api/pull", json={"name": model}, stream=True)
response.raise_for_status()
bars = {}
for line in response.iter_lines():
    if not line:
        continue
    data = json.loads(line)
    if "error" in data:
        sys.exit(data["error"])
    if "total" in data:
        digest = data["digest"]
        if digest not in bars:
            bars[digest] = tqdm(total=data["total"], unit="B", unit_scale=True, desc=data["status"])
        bars[digest].update(data["completed"] - bars[digest].n)
    else:
        print(data["status"])
for bar in bars.values():
    bar.close()
print(len(bars), "files,", sum(bar.n for bar in bars.values()), "bytes")
"""


class TestRequestsAndTqdm:
    @pytest.fixture
    def script(self, lasting_daemon: Daemon, tmp_path: Path) -> Callable[[str], Program]:
        """Starts the script with a model's name."""
        path = tmp_path / "pull.py"
        path.write_text(SCRIPT)
        return lambda name: Program([sys.executable, path, lasting_daemon.url, name], tmp_path / "home")

    @pytest.mark.parametrize("size", [12 * MB, 16 << 10], ids=["large", "tiny"])
    def test_it_draws_its_bars_to_the_end(
        self, script: Callable[[str], Program], docker_registry: DockerRegistry, size: int
    ) -> None:
        model = generate(size, seed=3)
        name = docker_registry.push(model, f"library/script-{size}")
        for time in ("the first", "the second, with nothing new"):
            code, out, err = script(name).finish()
            assert code == 0, (time, err)
            assert out.splitlines() == [
                *("pulling manifest", "verifying sha256 digest", "writing manifest", "success"),
                f"{len(model.blobs)} files, {model.size} bytes",
            ], time
            for each in model.blobs:
                assert f"pulling {each.digest.hex[:12]}: 100%" in err, time

    def test_it_sees_errors(self, script: Callable[[str], Program], registry: FaultRegistry) -> None:
        code, _, err = script(f"{registry.host}/library/none").finish()
        assert code == 1
        assert "404 Client Error" in err.splitlines()[-1]
        registry.fail(blob(tiny(4).weights), Status(404), times=None)
        code, out, err = script(registry.add(tiny(4), "library/tiny")).finish()
        assert code == 1
        assert "does not have blob" in err
        assert "success" not in out


@pytest.mark.parametrize("through", ["a daemon", "itself"])
def test_the_command_pulls_from_a_real_registry(
    docker_registry: DockerRegistry, daemon_factory: DaemonFactory, tmp_path: Path, store_path: Path, through: str
) -> None:
    towline = Command(tmp_path / "home", store_path)
    if through == "a daemon":
        towline.environment["OLLAMA_HOST"] = daemon_factory().host
    model: Model = generate(12 * MB, seed=5)
    name = docker_registry.push(model, "library/command")
    result = towline.run("pull", "--json", name)
    assert result.code == 0
    result.pull(model=model)
    check_stored(store_path, name, model)
    docker_registry.reset()
    assert towline.run("pull", name).lines[-1] == f"{name} is up to date"
    assert not docker_registry.blob_requests()
    (weights,) = towline.run("path", name).lines
    assert gguf.GGUFReader(weights).get_field("general.architecture").contents() == "llama"
    assert "not found" in towline.run("pull", f"{docker_registry.host}/library/none").failed()
