"""The clients that people have, as they use them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from tests.support.components import require
from tests.support.daemon import Daemon
from tests.support.events import check_pull
from tests.support.models import Model, generate
from tests.support.registry import FaultRegistry

MIB = 1 << 20

TQDM_SCRIPT = """\
import json, sys
import requests
from tqdm import tqdm

bars = {}
with requests.post(sys.argv[1] + "/api/pull", json={"name": sys.argv[2]}, stream=True) as response:
    response.raise_for_status()
    for line in response.iter_lines():
        data = json.loads(line)
        if "total" in data:
            digest = data["digest"]
            if digest not in bars:
                bars[digest] = tqdm(total=data["total"], desc=data["status"])
            bars[digest].update(data["completed"] - bars[digest].n)
            if data["completed"] == data["total"]:
                bars[digest].close()
        print(data["status"])
"""


@pytest.fixture
def model() -> Model:
    return generate(12 * MIB, seed=21)


@pytest.fixture
def client(daemon: Daemon) -> Iterator[ollama.Client]:
    """The package's own client, of this daemon."""
    client = ollama.Client(daemon.url)
    yield client
    client.close()  # type: ignore[no-untyped-call]


@pytest.fixture
def name(registry: FaultRegistry, model: Model) -> str:
    return registry.add(model, "library/client")


class TestOllamaPackage:
    def test_it_pulls_at_once(self, client: ollama.Client, name: str) -> None:
        assert client.pull(name).status == "success"

    def test_it_pulls_with_progress(self, client: ollama.Client, name: str, model: Model) -> None:
        events = list(client.pull(name, stream=True))
        lines = [event.model_dump(exclude_none=True) for event in events]
        check_pull(lines, model=model)

    def test_it_pulls_asynchronously(self, daemon: Daemon, name: str, model: Model) -> None:
        async def pull() -> tuple[str | None, list[dict[str, object]]]:
            client = ollama.AsyncClient(daemon.url)
            try:
                streamed = [e.model_dump(exclude_none=True) async for e in await client.pull(name, stream=True)]
                return (await client.pull(name)).status, streamed
            finally:
                await client.close()  # type: ignore[no-untyped-call]

        status, lines = asyncio.run(pull())
        assert status == "success"
        check_pull(lines, model=model)

    def test_it_lists_what_was_pulled(self, client: ollama.Client, name: str, model: Model) -> None:
        client.pull(name)
        (listed,) = client.list().models
        assert (listed.model, listed.size, listed.digest) == (name, model.size, model.digest.hex)

    def test_a_model_that_is_not_there_is_a_404(self, client: ollama.Client, registry: FaultRegistry) -> None:
        with pytest.raises(ollama.ResponseError, match="not found") as caught:
            client.pull(f"{registry.host}/library/none")
        assert caught.value.status_code == 404

    def test_it_is_a_404_too_where_progress_was_asked_for(self, client: ollama.Client, registry: FaultRegistry) -> None:
        with pytest.raises(ollama.ResponseError, match="not found") as caught:
            list(client.pull(f"{registry.host}/library/none", stream=True))
        assert caught.value.status_code == 404

    def test_a_name_that_is_none_is_a_400(self, client: ollama.Client) -> None:
        with pytest.raises(ollama.ResponseError, match="invalid model name") as caught:
            client.pull("../../etc/passwd")
        assert caught.value.status_code == 400


def test_curl_needs_no_content_type(daemon: Daemon, name: str, model: Model) -> None:
    curl = require("curl")
    body = json.dumps({"model": name})
    done = subprocess.run(
        [curl, "-sN", f"{daemon.url}/api/pull", "-d", body], check=True, capture_output=True, text=True
    )
    check_pull([json.loads(line) for line in done.stdout.splitlines()], model=model)


def test_a_script_that_reads_completed_whenever_there_is_a_total_works(
    daemon: Daemon, name: str, tmp_path: Path
) -> None:
    script = tmp_path / "pull.py"
    script.write_text(TQDM_SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), daemon.url, name], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "success"
