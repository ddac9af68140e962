"""Settings: every form in which they may be written."""

from __future__ import annotations

import contextlib
import doctest
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline import environ, settings
from towline.errors import InvalidRequest
from towline.settings import Listen, Mirror, Settings, impossible_port, parse_mirrors, parse_rate


def test_the_examples_in_the_documentation_hold() -> None:
    for module in (environ, settings):
        assert doctest.testmod(module).failed == 0


class TestListen:
    @pytest.mark.parametrize(
        ("text", "host", "port"),
        [  # the table of Ollama's own test (envconfig/config_test.go), and what its code makes of the rest
            ("", "127.0.0.1", 11434),
            ("1.2.3.4", "1.2.3.4", 11434),
            (":1234", "", 1234),
            (":", "", 11434),
            ("1.2.3.4:1234", "1.2.3.4", 1234),
            ("1.2.3.4:", "1.2.3.4", 11434),
            ("example.com", "example.com", 11434),
            ("example.com:1234", "example.com", 1234),
            (":0", "", 0),
            (":66000", "", 11434),
            (":-1", "", 11434),
            ("host:abc", "host", 11434),
            ("[::1]", "::1", 11434),
            ("[::]", "::", 11434),
            ("::1", "::1", 11434),
            ("::", "::", 11434),
            ("[::1]:1337", "::1", 1337),
            (" 1.2.3.4 ", "1.2.3.4", 11434),
            ('"1.2.3.4"', "1.2.3.4", 11434),
            (' " 1.2.3.4 " ', "1.2.3.4", 11434),
            ("'1.2.3.4'", "1.2.3.4", 11434),
            ("http://1.2.3.4", "1.2.3.4", 80),
            ("http://1.2.3.4:4321", "1.2.3.4", 4321),
            ("http://1.2.3.4:66000", "1.2.3.4", 80),
            ("https://1.2.3.4", "1.2.3.4", 443),
            ("https://1.2.3.4:4321", "1.2.3.4", 4321),
            ("https://example.com/ollama", "example.com", 443),
            ("http://example.com:8080/ollama/", "example.com", 8080),
            ("http://", "127.0.0.1", 80),
            ("https://", "127.0.0.1", 443),
            ("http://:8080", "", 8080),
            ("http://[::1]:8080/", "::1", 8080),
            ("0.0.0.0", "0.0.0.0", 11434),
            ("http://me:word@host:8080/", "host", 8080),
            ("me:word@[::1]:8080", "::1", 8080),
        ],
    )
    def test_every_form_that_ollama_takes_is_read_as_ollama_reads_it(self, text: str, host: str, port: int) -> None:
        assert Listen.parse(text) == Listen(host, port)

    @pytest.mark.parametrize(
        ("text", "port"),
        [("127.0.0.1:99999", "99999"), ("foo:bar", "bar"), (":-1", "-1"), ("http://[::1]:x/", "x"), ("a:٣", "٣")],
    )
    def test_an_impossible_port_is_refused_by_its_name_where_it_is_read_strictly(self, text: str, port: str) -> None:
        assert impossible_port(text) == port
        with pytest.raises(InvalidRequest) as caught:
            Listen.parse_strictly(text)
        assert str(caught.value) == f"{port!a} is no port; it is a number from 0 to 65535"

    @pytest.mark.parametrize("text", ["", ":0", "1.2.3.4:", "[::1]:65535", "http://host", "::1"])
    def test_a_possible_port_is_read_strictly_as_otherwise(self, text: str) -> None:
        assert impossible_port(text) == ""
        assert Listen.parse_strictly(text) == Listen.parse(text)

    @given(st.text() | st.text("0123456789.:[]/ht\"' ", max_size=20))
    def test_any_text_is_an_address_with_a_possible_port(self, text: str) -> None:
        assert 0 <= Listen.parse(text).port <= 65535

    @pytest.mark.parametrize(
        ("listen", "url"),
        [
            (Listen(), "http://127.0.0.1:11434"),
            (Listen("", 1), "http://127.0.0.1:1"),
            (Listen("0.0.0.0", 1), "http://127.0.0.1:1"),
            (Listen("::", 1), "http://[::1]:1"),
            (Listen("::1", 1), "http://[::1]:1"),
            (Listen("host", 1), "http://host:1"),
        ],
    )
    def test_a_client_on_this_machine_reaches_it(self, listen: Listen, url: str) -> None:
        assert listen.url == url


class TestMirrors:
    @pytest.mark.parametrize(
        ("text", "mirrors"),
        [
            ("", []),
            (" , ,", []),
            ("registry.ollama.ai=http://127.0.0.1:5000", [("registry.ollama.ai", "http://127.0.0.1:5000")]),
            (" a = http://b/ , a=c ", [("a", "http://b"), ("a", "https://c")]),
            ("Host.Example:5000=https://mirror/path/", [("host.example:5000", "https://mirror/path")]),
            ("a=https://[::1]:5000", [("a", "https://[::1]:5000")]),
        ],
    )
    def test_entries_are_read_in_their_order(self, text: str, mirrors: list[tuple[str, str]]) -> None:
        assert parse_mirrors(text) == tuple(Mirror(*mirror) for mirror in mirrors)

    @pytest.mark.parametrize(
        "text",
        [
            "a",
            "a=",
            "=http://b",
            "a=ftp://b",
            "a=http://",
            "a=http://user@b",
            "a=http://user:word@b",
            "a=http://b?x=1",
            "a=http://b#x",
            "a=http://b c",
            "a/b=http://c",
            "http://a=http://b",
            "a=http://b:0x50",
            "a=http://b:99999",
            "a=http://[::1",
            "good=http://b,bad",
        ],
    )
    def test_what_is_no_endpoint_is_refused_with_a_sentence(self, text: str) -> None:
        with pytest.raises(InvalidRequest, match="TOWLINE_MIRRORS"):
            parse_mirrors(text)

    @given(st.text())
    def test_any_text_is_mirrors_or_raises_invalid_request_and_nothing_else(self, text: str) -> None:
        with contextlib.suppress(InvalidRequest):
            parse_mirrors(text)

    @pytest.mark.parametrize(
        "entry", ["a=http://user:se/c=ret,@b", "http://user:secret@b", "b/?token=secret", "a=b?secret"]
    )
    def test_a_refused_entry_shows_no_secret(self, entry: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            parse_mirrors(entry)
        assert not re.search("se/?c=?ret", str(caught.value))


class TestRates:
    @pytest.mark.parametrize(
        ("text", "rate"),
        [
            ("20MB/s", 20e6),
            ("20 MB/s", 20e6),
            (" 512k ", 512e3),
            ("1.5 MiB/s", 1.5 * (1 << 20)),
            ("1000", 1000),
            ("1kB/s", 1000),
            ("1g", 1e9),
            ("2GiB", 2 << 30),
            ("100Mbit/s", 12.5e6),
            ("100 mbit", 12.5e6),
            ("100Mbps", 12.5e6),
            ("100MBps", 100e6),
        ],
    )
    def test_a_bandwidth_is_read_as_people_write_it(self, text: str, rate: float) -> None:
        assert parse_rate(text, "it") == rate

    @pytest.mark.parametrize(
        "text", ["", "0", "fast", "-5MB/s", "1e6", "100", "5 bit/s", "20TB/s", "MB/s", "inf", "٣k"]
    )
    def test_anything_else_is_refused_with_what_it_was_for(self, text: str) -> None:
        with pytest.raises(InvalidRequest, match="TOWLINE_MAX_RATE is"):
            parse_rate(text, "TOWLINE_MAX_RATE")

    @given(st.text())
    def test_any_text_is_a_bandwidth_or_raises_invalid_request_and_nothing_else(self, text: str) -> None:
        with contextlib.suppress(InvalidRequest):
            assert parse_rate(text, "it") >= 1000


class TestEnvironment:
    def test_nothing_set_means_the_defaults(self) -> None:
        assert Settings.from_environ({}) == Settings()

    def test_each_variable_is_read(self) -> None:
        settings = Settings.from_environ(
            {
                "OLLAMA_MODELS": " /models ",
                "OLLAMA_HOST": "0.0.0.0:80",
                "OLLAMA_ORIGINS": "http://A.example, app://*",
                "OLLAMA_NOPRUNE": "1",
                "TOWLINE_MIRRORS": "a=http://b",
                "TOWLINE_PLAIN_HTTP": "Host:5000, other",
                "TOWLINE_SERVE_REGISTRY": "0",
                "TOWLINE_CONNECTIONS": "4",
                "TOWLINE_CONNECTIONS_PER_BLOB": "2",
                "TOWLINE_CONNECTIONS_PER_HOST": "3",
                "TOWLINE_MAX_RATE": "1MB/s",
                "TOWLINE_WRITEBACK": "off",
                "TOWLINE_STALL_TIMEOUT": "2.5",
                "TOWLINE_STAGING_TTL": "0",
                "TOWLINE_KEEP_TRYING": "1",
            }
        )
        assert settings == Settings(
            models=Path("/models"),
            listen=Listen("0.0.0.0", 80),
            origins=("http://a.example", "app://*"),
            noprune=True,
            mirrors=(Mirror("a", "http://b"),),
            plain_http=("host:5000", "other"),
            serve_registry=False,
            connections=4,
            connections_per_blob=2,
            connections_per_host=3,
            max_rate=1e6,
            writeback=False,
            stall_timeout=2.5,
            staging_ttl=0,
            keep_trying=True,
        )

    @pytest.mark.parametrize("quoted", ['"{}"', "'{}'", "'\"{}\"'", "\"'{}'\"", ' "{}" ', "''\"{}\"''"])
    def test_each_variable_is_read_without_the_quotes_that_a_file_of_variables_leaves(self, quoted: str) -> None:
        environ = {
            "OLLAMA_MODELS": "/models",
            "OLLAMA_HOST": "[::1]:80",
            "OLLAMA_ORIGINS": "app://a, app://b",
            "OLLAMA_NOPRUNE": "false",
            "TOWLINE_MIRRORS": "a=http://b,c=https://d",
            "TOWLINE_PLAIN_HTTP": "host:5000",
            "TOWLINE_SERVE_REGISTRY": "0",
            "TOWLINE_CONNECTIONS": "4",
            "TOWLINE_CONNECTIONS_PER_BLOB": "2",
            "TOWLINE_CONNECTIONS_PER_HOST": "3",
            "TOWLINE_MAX_RATE": "1MB/s",
            "TOWLINE_WRITEBACK": "off",
            "TOWLINE_STALL_TIMEOUT": "2.5s",
            "TOWLINE_STAGING_TTL": "0",
            "TOWLINE_KEEP_TRYING": "yes",
        }
        plain = Settings.from_environ(environ)
        assert plain != Settings()
        assert Settings.from_environ({name: quoted.format(value) for name, value in environ.items()}) == plain

    @pytest.mark.parametrize("nothing", ["", " ", '""', "''", "'\"\"'", ' "" '])
    def test_quotes_around_nothing_are_nothing(self, nothing: str) -> None:
        ours = ("MIRRORS", "MAX_RATE", "CONNECTIONS", "SERVE_REGISTRY", "STALL_TIMEOUT", "KEEP_TRYING")
        names = ["OLLAMA_MODELS", "OLLAMA_HOST", "OLLAMA_NOPRUNE", *(f"TOWLINE_{name}" for name in ours)]
        assert Settings.from_environ(dict.fromkeys(names, nothing)) == Settings()

    def test_a_home_in_quotes_is_still_the_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        assert Settings.from_environ({"OLLAMA_MODELS": '"~/models"'}).models == Path("/home/me/models")

    def test_the_home_of_nobody_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="OLLAMA_MODELS is '~nobody-of-this-name/models'"):
            Settings.from_environ({"OLLAMA_MODELS": "~nobody-of-this-name/models"})

    @pytest.mark.parametrize(
        "name", ["TOWLINE_PLAIN_HTTP", "TOWLINE_MAX_RATE", "TOWLINE_CONNECTIONS", "TOWLINE_WRITEBACK"]
    )
    def test_a_value_that_is_refused_shows_no_password(self, name: str) -> None:
        with pytest.raises(InvalidRequest, match=name) as caught:
            Settings.from_environ({name: "http://me:hu,sh@host:1"})
        assert "hu" not in str(caught.value)

    @pytest.mark.parametrize("text", ["", "0", "false", "no", "off", "F", '"0"'])
    def test_a_flag_can_be_off_in_every_usual_way(self, text: str) -> None:
        assert not Settings.from_environ({"OLLAMA_NOPRUNE": text}).noprune

    @pytest.mark.parametrize("text", ["1", "true", "TRUE", "yes", "on", "whatever"])
    def test_a_flag_is_on_with_anything_else(self, text: str) -> None:
        assert Settings.from_environ({"OLLAMA_NOPRUNE": text}).noprune

    @pytest.mark.parametrize("name", ["TOWLINE_WRITEBACK", "TOWLINE_SERVE_REGISTRY", "TOWLINE_KEEP_TRYING"])
    def test_a_switch_says_on_or_off_or_is_refused(self, name: str) -> None:
        field = name.removeprefix("TOWLINE_").lower()
        for on in ("1", "true", "YES", " on "):
            assert getattr(Settings.from_environ({name: on}), field) is True
        for off in ("0", "False", "no", "off"):
            assert getattr(Settings.from_environ({name: off}), field) is False
        with pytest.raises(InvalidRequest, match=f"{name} is 'perhaps', but takes 1 or 0"):
            Settings.from_environ({name: "perhaps"})

    def test_a_plain_host_may_have_its_scheme_before_it(self) -> None:
        settings = Settings.from_environ({"TOWLINE_PLAIN_HTTP": "http://A:5000/, [::1]:80, b"})
        assert settings.plain_http == ("a:5000", "[::1]:80", "b")

    @pytest.mark.parametrize("text", ["https://a", "http://a/b", "a b", "a:port", "http://"])
    def test_what_is_no_plain_host_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidRequest, match=r"TOWLINE_PLAIN_HTTP holds .*, but takes hosts"):
            Settings.from_environ({"TOWLINE_PLAIN_HTTP": text})

    @pytest.mark.parametrize("name", ["CONNECTIONS", "CONNECTIONS_PER_BLOB"])
    @pytest.mark.parametrize("text", ["x", "0", "65", "2.9", "-1", "1e1", "nan", "inf", "0x10", "٣", "9" * 400])
    def test_a_count_that_is_none_or_out_of_its_bounds_is_refused_with_its_name(self, name: str, text: str) -> None:
        with pytest.raises(InvalidRequest, match=f"TOWLINE_{name} is .*, but takes a whole number from 1 to 64$"):
            Settings.from_environ({f"TOWLINE_{name}": text})

    @pytest.mark.parametrize(
        ("name", "bounds"), [("STALL_TIMEOUT", "from 1 to 86400"), ("STAGING_TTL", "from 0 to 315360000")]
    )
    @pytest.mark.parametrize(
        "text", ["x", "s", "30 min", "-1", "1e9", "1e3", "1_0", "٣", "nan", "inf", "0x10", "9" * 400]
    )
    def test_a_time_out_of_its_bounds_is_refused_with_its_name_and_unit(
        self, name: str, bounds: str, text: str
    ) -> None:
        with pytest.raises(InvalidRequest, match=f"TOWLINE_{name} is .*, but takes seconds {bounds}$"):
            Settings.from_environ({f"TOWLINE_{name}": text})

    @pytest.mark.parametrize("text", ["30", "30s", "30 s", "30.0"])
    def test_a_time_may_have_its_unit(self, text: str) -> None:
        assert Settings.from_environ({"TOWLINE_STALL_TIMEOUT": text}).stall_timeout == 30
