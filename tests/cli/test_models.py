"""`towline list`, `towline path`."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.support import Command
from tests.support import models
from tests.support.models import Blob, Model
from tests.support.registry import FaultRegistry
from towline.demo.seed import manifest_path
from towline.model.manifest import PARAMS_LAYER


def put(store: Path, name: str, model: Model, *, age: float = 0) -> None:
    """Lays a model into the store, as if it had been pulled `age` seconds ago."""
    for blob in model.blobs:
        path = store / "blobs" / blob.digest.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob.data)
    manifest = manifest_path(store, name)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_bytes(model.manifest)
    moment = datetime.now(UTC).timestamp() - age
    os.utime(manifest, (moment, moment))


def test_an_empty_store_is_an_empty_list(towline: Command) -> None:
    assert towline.run("list").lines == ["NAME    ID    SIZE    MODIFIED"]
    assert towline.run("list", "--json").json == {"models": []}


@pytest.mark.parametrize("command", ["list", "ls"])
def test_lists_the_newest_first(towline: Command, store_path: Path, command: str) -> None:
    old, new = models.tiny(1), models.tiny(2)
    put(store_path, "llama3.2", old, age=3 * 86400)
    put(store_path, "registry.example:5000/team/mistral:7b", new, age=90)
    rows = [row.split("  ") for row in towline.run(command).lines[1:]]
    assert [[cell.strip() for cell in row if cell] for row in rows] == [
        ["registry.example:5000/team/mistral:7b", new.digest.short, "17 KB", "About a minute ago"],
        ["llama3.2:latest", old.digest.short, "17 KB", "3 days ago"],
    ]


def test_lists_what_begins_so(towline: Command, store_path: Path) -> None:
    put(store_path, "llama3.2", models.tiny(1))
    put(store_path, "mistral", models.tiny(2))
    assert [row.split()[0] for row in towline.run("list", "LLA").lines[1:]] == ["llama3.2:latest"]


def test_a_list_of_what_is_no_folder_says_so(towline: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for none in (tmp_path / "file", tmp_path / "nothing"):
        assert towline.run("list", "--models", str(none)).failed().startswith(f"{none} is no folder")
    assert towline.run("list", env={"OLLAMA_MODELS": str(tmp_path / "file")}).failed().startswith(f"{tmp_path}/file is")


def test_a_path_in_what_is_no_folder_says_so(towline: Command, tmp_path: Path) -> None:
    none = tmp_path / "nothing"
    assert towline.run("path", "--models", str(none), "llama3.2").failed().startswith(f"{none} is no folder")


def test_what_is_advised_means_the_same_store(towline: Command, tmp_path: Path) -> None:
    store, model = tmp_path / "the other", models.tiny()
    put(store, "llama3.2", model)
    chosen = ("--models", str(store), "--local")
    options = f"--models '{store}' --local"
    assert towline.run("path", *chosen, "phi").failed().endswith(f"pull it first: towline pull {options} phi:latest")
    assert (
        towline.run("path", *chosen, "llama3.2:1b")
        .failed()
        .endswith(f"towline path {options} llama3.2:latest; or towline pull {options} llama3.2:1b")
    )
    (store / "blobs" / model.weights.digest.file_name).unlink()
    again = f"pull it again: towline pull {options} llama3.2:latest"
    assert towline.run("path", *chosen, "llama3.2").failed().endswith(again)
    assert towline.run("list", *chosen).said[0].endswith(again)


def test_a_list_of_a_store_that_is_not_made_yet_is_empty_and_says_so(
    towline: Command, tmp_path: Path, store_path: Path
) -> None:
    result = towline.run("list")
    assert (result.code, len(result.lines)) == (0, 1)
    assert result.said == [f"there is no folder {store_path} yet; the first pull makes it"]
    store_path.mkdir()
    result = towline.run("list", "--json")
    assert (result.code, result.json) == (0, {"models": []})
    assert result.said == [f"there are no models in {store_path} yet"]


def test_a_list_names_the_models_that_are_not_whole(towline: Command, store_path: Path) -> None:
    for number in range(8):
        model = models.tiny(number)
        put(store_path, f"m{number}", model, age=number)
        (store_path / "blobs" / model.weights.digest.file_name).unlink()
    put(store_path, "whole", models.tiny(9))
    result = towline.run("list")
    assert (result.code, len(result.lines)) == (0, 10)
    assert result.said[0] == "m0:latest is not whole, 16 KB of it are missing; pull it again: towline pull m0:latest"
    assert result.said[5:] == ["3 more models are not whole"]
    assert towline.run("list", "whole").said == []


def test_a_weights_file_that_was_cut_off_is_not_whole(towline: Command, store_path: Path) -> None:
    model = models.tiny()
    put(store_path, "cut", model)
    os.truncate(store_path / "blobs" / model.weights.digest.file_name, 5)
    assert towline.run("list").said[0].startswith("cut:latest is not whole")


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (
            "80",
            [
                "NAME                   ID              SIZE     MODIFIED",
                "mistral:7b-instruct    {id}    17 KB    3 days ago",
            ],
        ),
        ("40", ["NAME", "  ID            SIZE   MODIFIED", "mistral:7b-instruct", "  {id}  17 KB  3 days ago"]),
        ("30", ["NAME", "  SIZE   MODIFIED", "mistral:7b-instruct", "  17 KB  3 days ago"]),
    ],
)
def test_a_list_fits_the_terminal(towline: Command, store_path: Path, columns: str, rows: list[str]) -> None:
    model = models.tiny()
    put(store_path, "mistral:7b-instruct", model, age=3 * 86400)
    assert towline.run("list", env={"COLUMNS": columns}).lines == [row.format(id=model.digest.short) for row in rows]
    on_terminal = towline.on_terminal("list", columns=int(columns))
    assert [line.split() for line in on_terminal.out.splitlines()] == [
        row.format(id=model.digest.short).split() for row in rows
    ]


def test_a_list_that_goes_elsewhere_than_to_a_terminal_keeps_its_rows(towline: Command, store_path: Path) -> None:
    put(store_path, f"registry.example/team/{'m' * 80}:{'t' * 80}", models.tiny())
    assert len(towline.run("list").lines) == 2


def test_lists_as_the_api_does(towline: Command, store_path: Path) -> None:
    model = models.tiny()
    put(store_path, "llama3.2", model)
    (entry,) = towline.run("list", "--json").json["models"]
    modified = datetime.fromisoformat(entry.pop("modified_at"))
    assert abs(datetime.now(UTC) - modified) < timedelta(minutes=1)
    assert entry == {
        "name": "llama3.2:latest",
        "model": "llama3.2:latest",
        "size": model.size,
        "digest": model.digest.hex,
    }


def test_a_folder_on_the_command_line_goes_before_the_environment(towline: Command, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "llama3.2", models.tiny())
    assert len(towline.run("list", "--models", str(tmp_path / "elsewhere")).lines) == 2
    assert len(towline.run("list").lines) == 1


def test_a_folder_in_quotes_in_quotes_is_the_folder(towline: Command, store_path: Path) -> None:
    put(store_path, "llama3.2", models.tiny())
    assert len(towline.run("list", env={"OLLAMA_MODELS": f"'\"{store_path}\"'"}).lines) == 2


def test_path_is_the_file_of_the_weights(towline: Command, registry: FaultRegistry) -> None:
    model = models.tiny()
    name = registry.add(model, "library/tiny")
    assert towline.run("pull", name).code == 0
    result = towline.run("path", name)
    assert result.code == 0
    assert Path(result.out.removesuffix("\n")).read_bytes() == model.weights.data


def test_path_of_a_relative_store_is_absolute(
    towline: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "here", "llama3.2", models.tiny())
    monkeypatch.chdir(tmp_path)
    assert Path(towline.run("path", "llama3.2", "--models", "here").out.strip()).is_absolute()


def test_path_of_a_store_that_is_no_text_is_its_bytes(towline: Command, tmp_path: Path) -> None:
    store = tmp_path / os.fsdecode(b"m\xff\xfe")
    put(store, "llama3.2", models.tiny())
    script = 'test -f "$(towline path llama3.2)"'
    environment = {**towline.environment, "OLLAMA_MODELS": str(store)}
    environment["PATH"] = f"{Path(os.sys.prefix) / 'bin'}:{environment['PATH']}"  # type: ignore[attr-defined]
    assert os.spawnvpe(os.P_WAIT, "sh", ["sh", "-c", script], environment) == 0


def test_path_of_a_model_that_is_not_here_says_how_to_get_it(towline: Command) -> None:
    sentence = towline.run("path", "llama3.2").failed()
    assert sentence == "llama3.2:latest is not here; pull it first: towline pull llama3.2:latest"


def test_path_of_a_model_of_which_other_versions_are_here_names_them(towline: Command, store_path: Path) -> None:
    put(store_path, "llama3.2:1b", models.tiny(1))
    put(store_path, "team/llama3.2:3b", models.tiny(2))
    assert towline.run("path", "Llama3.2").failed() == (
        "Llama3.2:latest is not here, but its tag 1b is: towline path Llama3.2:1b; or towline pull Llama3.2:latest"
    )
    put(store_path, "llama3.2:3b", models.tiny(3))
    assert "its tags 1b, 3b are: towline path llama3.2:1b" in towline.run("path", "llama3.2").failed()


def test_path_of_another_digest_than_the_one_that_is_here_says_which_is(towline: Command, store_path: Path) -> None:
    put(store_path, "llama3.2", models.tiny(1))
    sentence = towline.run("path", f"llama3.2@{models.tiny(2).digest}").failed()
    assert sentence.startswith(f"llama3.2:latest is here with another digest, {models.tiny(1).digest}")


def test_path_of_a_model_without_its_weights_says_how_to_mend_it(towline: Command, store_path: Path) -> None:
    model = models.tiny()
    put(store_path, "llama3.2", model)
    (store_path / "blobs" / model.weights.digest.file_name).unlink()
    assert "pull it again: towline pull llama3.2:latest" in towline.run("path", "llama3.2").failed()


def test_path_of_a_model_that_has_no_weights_says_so(towline: Command, store_path: Path) -> None:
    put(store_path, "bare", Model.of([Blob.of(PARAMS_LAYER, "{}")]))
    assert "no single file of weights" in towline.run("path", "bare").failed()


@pytest.mark.parametrize("name", ["../../etc/passwd", "a b", "", "host:1/model"])
def test_path_of_what_is_no_name_is_wrong_usage(towline: Command, name: str) -> None:
    assert towline.run("path", name).failed(2).startswith("invalid model name")
