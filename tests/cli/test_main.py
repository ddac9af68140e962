"""The command line itself: usage, exit codes, output that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.support import Command
from tests.support.daemon import TOWLINE
from towline._version import __version__
from towline.cli.main import main, parser

COMMANDS = ("pull", "list", "path", "serve", "demo", "version", "help")


@pytest.mark.parametrize("arguments", [("version",), ("--version",)])
def test_tells_its_version(towline: Command, arguments: tuple[str, ...]) -> None:
    assert towline.run(*arguments).out == f"towline {__version__}\n"


def test_runs_as_a_module(towline: Command) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "towline", "version"], capture_output=True, env=towline.environment, check=True
    )
    assert done.stdout.decode() == f"towline {__version__}\n"


@pytest.mark.parametrize("option", [("--host", "127.0.0.1:1"), ("--host=127.0.0.1:1",), ("--local",)])
def test_an_option_before_the_command_is_told_to_come_behind_it(towline: Command, option: tuple[str, ...]) -> None:
    result = towline.run(*option, "list")
    assert result.code == 2
    name = option[0].partition("=")[0]
    assert result.err.startswith(f"towline: {name} stands before the command; options come behind it: towline COMMAND")


@pytest.mark.parametrize("started", [(TOWLINE,), (sys.executable, "-m", "towline")], ids=["script", "module"])
def test_ctrl_c_while_modules_are_loaded_ends_without_a_traceback(
    towline: Command, tmp_path: Path, started: tuple[str, ...]
) -> None:
    (tmp_path / "argparse.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = {**towline.environment, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*started, "version"], capture_output=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_version_loads_nothing_heavy(towline: Command) -> None:
    script = "import sys; from towline.cli.main import main; main(['version']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=towline.environment, check=True)
    loaded = set(done.stdout.decode().split())
    assert not loaded & {"rich", "msgspec", "aiohttp", "urllib3", "asyncio", "http.client", "towline.settings"}


@pytest.mark.parametrize("arguments", [(), ("help",), ("-h",), ("--help",)])
def test_help_names_every_command(towline: Command, arguments: tuple[str, ...]) -> None:
    result = towline.run(*arguments)
    assert result.code == 0
    assert all(f"\n  {command}" in result.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_about_one_command(towline: Command, command: str) -> None:
    asked, flagged = towline.run("help", command), towline.run(command, "--help")
    assert asked.code == flagged.code == 0
    assert asked.out == flagged.out
    assert asked.out.startswith(f"usage: towline {command}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("pul",),
        ("pull",),
        ("path",),
        ("path", "a", "b"),
        ("list", "--nonsense"),
        ("pull", "--js", "llama3.2"),  # no abbreviations: they would bind later options
        ("list", "--models", ""),
        ("help", "nonsense"),
        ("pull", "--max-rate", "abc", "llama3.2"),
        ("pull", "--max-rate", "0", "llama3.2"),
        ("serve", "--max-rate", "999"),
        ("pull", "--host", "127.0.0.1:x", "llama3.2"),
        ("pull", "--host", "", "llama3.2"),
        ("serve", "--host", " "),
        ("list", "--models", "~nobody-of-this-name/models"),
        ("pull", "--host", "tcp://127.0.0.1", "llama3.2"),
        ("pull", "--host", "127.0.0.1", "--local", "llama3.2"),
        ("pull", "--quiet", "--json", "llama3.2"),
    ],
)
def test_wrong_usage_exits_2_and_says_where_help_is(towline: Command, arguments: tuple[str, ...]) -> None:
    result = towline.run(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert "Try: towline help" in result.err


@pytest.mark.parametrize(
    ("arguments", "topic"),
    [(("pull", "--nonsense", "x"), " pull"), (("list", "a", "b"), " list"), (("--nonsense",), ""), (("ps",), "")],
)
def test_wrong_usage_of_a_command_names_the_help_of_that_command(
    towline: Command, arguments: tuple[str, ...], topic: str
) -> None:
    assert towline.run(*arguments).err.endswith(f"\nTry: towline help{topic}\n")


@pytest.mark.parametrize("columns", [40, 60, 80])
@pytest.mark.parametrize("topic", [(), *((command,) for command in COMMANDS)], ids=str)
def test_help_fits_the_terminal(towline: Command, topic: tuple[str, ...], columns: int) -> None:
    result = towline.run("help", *topic, env={"COLUMNS": str(columns)})
    assert result.code == 0
    assert max(map(len, result.lines)) <= columns


def test_an_example_that_is_broken_at_a_narrow_terminal_can_still_be_run(towline: Command) -> None:
    narrow = towline.run("help", "pull", env={"COLUMNS": "40"}).out.replace(" \\\n   ", "")
    assert "\n  towline pull registry.example:5000/team/model:v2\n" in narrow


def test_a_command_that_is_none_is_told_in_one_wording(towline: Command) -> None:
    assert towline.run("ps").err == towline.run("help", "ps").err
    assert towline.run("ps").err.startswith("towline: there is no command 'ps'\n")


def test_the_help_of_pull_says_where_a_limit_does_not_apply(towline: Command) -> None:
    assert "its limit does not\napply" in towline.run("help", "pull").out


def test_every_command_has_a_description_and_a_function() -> None:
    for command in COMMANDS:
        arguments = [command, "x"] if command in ("pull", "path") else [command]
        assert callable(parser().parse_args(arguments).run)


def test_a_bad_setting_is_one_sentence(towline: Command) -> None:
    result = towline.run("list", env={"TOWLINE_CONNECTIONS": "many"})
    assert "TOWLINE_CONNECTIONS" in result.failed()


def test_without_a_home_it_says_which_setting_helps(towline: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", homeless)
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    assert main(["list"]) == 1


@pytest.mark.parametrize("off", ["0", '"0"', "false", "''"])
def test_debugging_is_off_with_whatever_says_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], off: str
) -> None:
    monkeypatch.setattr("towline.cli.options.settings", lambda _: 1 / 0)
    monkeypatch.setenv("TOWLINE_DEBUG", off)
    assert main(["list"]) == 1
    assert "TOWLINE_DEBUG=1 shows where" in capsys.readouterr().err


def test_a_bug_is_one_sentence_that_names_the_way_to_see_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("towline.cli.options.settings", broken)
    monkeypatch.delenv("TOWLINE_DEBUG", raising=False)
    assert main(["list"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert "TOWLINE_DEBUG=1" in err
    assert err.count("\n") == 1
    monkeypatch.setenv("TOWLINE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["list"])


def test_a_reader_that_leaves_is_no_error(towline: Command) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run([TOWLINE, "list"], stdout=pipe, stderr=subprocess.PIPE, env=towline.environment)
    assert (done.returncode, done.stderr) == (141, b"")


def test_output_that_cannot_be_written_is_one_sentence(towline: Command) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([TOWLINE, "list"], stdout=full, stderr=subprocess.PIPE, env=towline.environment)
    assert done.returncode == 1
    assert done.stderr == b"towline: the output could not be written: No space left on device\n"


@pytest.mark.parametrize("command", [("version",), ("list",), ("path", "nothing")])
def test_closed_output_is_no_traceback(towline: Command, command: tuple[str, ...]) -> None:
    script = 'exec "$@" >&- 2>&-'
    done = subprocess.run(["sh", "-c", script, "sh", str(TOWLINE), *command], env=towline.environment)
    assert done.returncode in (0, 1)


@pytest.mark.parametrize(
    "environment", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "PYTHONUTF8": "0"}]
)
def test_no_locale_breaks_it(towline: Command, environment: dict[str, str]) -> None:
    for command in ("help", "list"):
        assert towline.run(command, env=environment).code == 0
