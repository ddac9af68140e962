"""`towline demo`, whole, on the generated model."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.cli.support import Command


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Where the demonstration makes its folders."""
    places = tmp_path / "temporary"
    places.mkdir()
    return places


@pytest.fixture
def towline(tmp_path: Path, store_path: Path, places: Path) -> Command:
    """The command with a temporary folder of its own, and with settings that the demonstration must not heed."""
    command = Command(tmp_path / "home", store_path)
    command.environment |= {"TMPDIR": str(places), "TOWLINE_MIRRORS": "registry.ollama.ai=http://127.0.0.1:1"}
    return command


def daemons_in(places: Path) -> list[int]:
    """Processes that have this folder on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.startswith(os.fsencode(places)) for word in words):
                found.append(int(entry.name))
    return found


def test_shows_the_whole_way_and_leaves_nothing(towline: Command, places: Path, store_path: Path) -> None:
    result = towline.run("demo", "--generated")
    assert (result.code, result.err) == (0, "")
    for told in (
        "pulled towline-demo:generated: 8.0 MB in ",
        "SHA-256 of the manifest and of 5 blobs",
        "by the gguf package",
        "llama, 2 tensors",
        "2,048 tokens",
        "nothing: 5 blobs were here",
    ):
        assert told in result.out
    assert not list(places.iterdir())
    assert not daemons_in(places)
    assert not store_path.exists()


def test_keeps_the_store_when_asked(towline: Command, places: Path) -> None:
    result = towline.run("demo", "--generated", "--keep")
    assert result.code == 0
    (folder,) = places.iterdir()
    assert not daemons_in(places)
    path = Path(towline.run("path", "towline-demo:generated", "--models", str(folder / "to")).out.strip())
    assert path.stat().st_size == 8_000_000
    assert f"rm -r {folder}" in result.out


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("moment", ["A generated model", "Two daemons", "The pull", "What came"])
def test_leaves_nothing_when_interrupted(
    towline: Command, places: Path, moment: str, number: signal.Signals, code: int
) -> None:
    with towline.start("demo", "--generated") as running:
        running.read_until(lambda out: moment.encode() in out)
        running.send(number)
        result = running.wait()
    assert result.code in (code, 0)  # 0: it was faster than the signal
    assert result.code == 0 or result.failed(code).startswith("interrupted")
    assert not list(places.iterdir())
    assert not daemons_in(places)


def test_leaves_nothing_when_it_fails(towline: Command, places: Path, tmp_path: Path) -> None:
    # A Python that finds no server: the daemons end at once.
    broken = tmp_path / "broken" / "aiohttp.py"
    broken.parent.mkdir()
    broken.write_text("raise ImportError('made to fail')\n")
    result = towline.run("demo", "--generated", env={"PYTHONPATH": str(broken.parent)})
    assert "did not start" in result.failed()
    assert not list(places.iterdir())


def test_without_the_gguf_package_it_reads_the_model_itself(towline: Command, tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "gguf.py"
    missing.parent.mkdir()
    missing.write_text("raise ImportError('not installed')\n")
    result = towline.run("demo", "--generated", env={"PYTHONPATH": str(missing.parent)})
    assert result.code == 0
    assert "by towline's own reader" in result.out
    assert "llama, 2 tensors" in result.out
    assert "2,048 tokens" in result.out
