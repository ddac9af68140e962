"""Names: every rule of the table in section 3 of the contract."""

from __future__ import annotations

import string
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.events import check_sentence
from towline.errors import InvalidName
from towline.model.digest import Digest
from towline.model.name import ModelName

PIN = "sha256:" + "0123456789abcdef" * 4

FIRST = string.ascii_letters + string.digits + "_"
FURTHER = {"host": "-.", "namespace": "-", "model": "-.", "tag": "-."}
LONGEST = {"host": 350, "namespace": 80, "model": 80, "tag": 80}


def parts(kind: str) -> st.SearchStrategy[str]:
    """Every spelling of one part, ports left out."""
    longest = LONGEST[kind]
    return st.builds(
        str.__add__, st.sampled_from(FIRST), st.text(FIRST + FURTHER[kind], max_size=longest - 1)
    ) | st.just("a" * longest)


hosts = st.builds(lambda host, port: f"{host[:344]}{port}", parts("host"), st.integers(1, 65535).map(":{}".format))
names = st.builds(
    ModelName,
    parts("host") | hosts,
    parts("namespace"),
    parts("model"),
    parts("tag"),
    st.none() | st.just(Digest.parse(PIN)),
)


def spelled(**changed: str) -> str:
    """A whole name in which one part has this text."""
    given_parts = {"host": "host.example", "namespace": "some", "model": "model", "tag": "tag"} | changed
    return "{host}/{namespace}/{model}:{tag}".format(**given_parts)


class TestDefaults:
    @pytest.mark.parametrize(
        ("text", "full"),
        [
            ("llama3.2", "registry.ollama.ai/library/llama3.2:latest"),
            ("mistral:7b-instruct", "registry.ollama.ai/library/mistral:7b-instruct"),
            ("codellama:latest", "registry.ollama.ai/library/codellama:latest"),
            ("someone/model", "registry.ollama.ai/someone/model:latest"),
            ("host.example/some/model", "host.example/some/model:latest"),
            ("host.example:5000/some/model:tag", "host.example:5000/some/model:tag"),
            ("127.0.0.1:5000/library/tiny:latest", "127.0.0.1:5000/library/tiny:latest"),
            ("hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"),
            ("_model", "registry.ollama.ai/library/_model:latest"),
        ],
    )
    def test_parts_left_out_are_the_default_registry_library_and_latest(self, text: str, full: str) -> None:
        assert ModelName.parse(text).full == full

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("llama3.2", "llama3.2:latest"),
            ("registry.ollama.ai/library/llama3.2", "llama3.2:latest"),
            ("someone/model:1", "someone/model:1"),
            ("registry.ollama.ai/someone/model:1", "someone/model:1"),
            ("host.example/library/model", "host.example/library/model:latest"),
        ],
    )
    def test_a_name_is_shown_without_the_parts_that_are_the_defaults(self, text: str, shown: str) -> None:
        assert str(ModelName.parse(text)) == shown

    @pytest.mark.parametrize("scheme", ["http://", "https://", "HTTP://", "hTTps://"])
    def test_a_leading_scheme_is_dropped(self, scheme: str) -> None:
        assert ModelName.parse(f"{scheme}host.example/some/model") == ModelName.parse("host.example/some/model")

    def test_a_pinned_digest_is_kept_apart_from_where_the_model_is_stored(self) -> None:
        pinned = ModelName.parse(f"llama3.2:1b@{PIN}")
        assert str(pinned.digest) == PIN
        assert pinned.full == "registry.ollama.ai/library/llama3.2:1b"

    def test_a_pin_without_a_tag_goes_with_the_default_tag(self) -> None:
        assert ModelName.parse(f"llama3.2@{PIN}").tag == "latest"

    def test_names_that_differ_in_case_only_have_one_key(self) -> None:
        one, other = ModelName.parse("Host.Example/Some/Model:Tag"), ModelName.parse("host.example/some/model:tag")
        assert one.key == other.key
        assert one != other


class TestRules:
    @pytest.mark.parametrize("part", LONGEST)
    def test_a_part_of_the_greatest_length_is_valid(self, part: str) -> None:
        text = "a" * LONGEST[part]
        assert getattr(ModelName.parse(spelled(**{part: text})), part) == text

    @pytest.mark.parametrize("part", LONGEST)
    def test_a_part_that_is_one_character_longer_is_refused(self, part: str) -> None:
        with pytest.raises(InvalidName, match=f"the {part} is longer than {LONGEST[part]} characters"):
            ModelName.parse(spelled(**{part: "a" * (LONGEST[part] + 1)}))

    @pytest.mark.parametrize("part", LONGEST)
    def test_an_empty_part_is_refused(self, part: str) -> None:
        with pytest.raises(InvalidName, match=f"the {part} is empty"):
            ModelName.parse(spelled(**{part: ""}))

    @pytest.mark.parametrize("part", LONGEST)
    @pytest.mark.parametrize("first", ["-", "."])
    def test_no_part_begins_with_a_dash_or_a_dot(self, part: str, first: str) -> None:
        with pytest.raises(InvalidName, match=f"the {part} "):
            ModelName.parse(spelled(**{part: first + "x"}))

    def test_a_namespace_holds_no_dot(self) -> None:
        with pytest.raises(InvalidName, match="the namespace "):
            ModelName.parse(spelled(namespace="some.one"))

    @pytest.mark.parametrize("part", LONGEST)
    @pytest.mark.parametrize(
        "character",
        [
            "\0",
            "\n",
            "\r",
            "\t",
            " ",
            "\\",
            "%",
            "?",
            "#",
            "&",
            "=",
            "+",
            "~",
            "*",
            "é",
            "а",
            "Ａ",
            "٣",
            "\u202e",
            "\ud800",
        ],
    )
    def test_no_part_holds_other_characters(self, part: str, character: str) -> None:
        with pytest.raises(InvalidName, match=f"the {part} ") as caught:
            ModelName.parse(spelled(**{part: f"a{character}b"}))
        check_sentence(str(caught.value))

    @pytest.mark.parametrize("part", LONGEST)
    def test_a_newline_at_the_end_of_a_part_is_refused(self, part: str) -> None:
        with pytest.raises(InvalidName):
            ModelName.parse(spelled(**{part: "part\n"}))

    @pytest.mark.parametrize(
        "port", ["", "0", "65536", "655350", "0655350", "00000080", "-1", "+1", "1x", "1:2", "٣", " 1"]
    )
    def test_a_host_with_an_impossible_port_is_refused(self, port: str) -> None:
        with pytest.raises(InvalidName, match="the host "):
            ModelName.parse(spelled(host=f"host:{port}"))

    @pytest.mark.parametrize("port", ["1", "80", "65535"])
    def test_a_host_with_a_possible_port_is_valid(self, port: str) -> None:
        assert ModelName.parse(spelled(host=f"host:{port}")).host == f"host:{port}"

    def test_a_host_without_a_namespace_is_refused_with_the_right_spelling(self) -> None:
        with pytest.raises(InvalidName, match="'localhost:5000/library/model:tag'"):
            ModelName.parse("localhost:5000/model:tag")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ":",
            "/",
            "//",
            "///",
            "a/b/c/d",
            "a//b",
            "/a",
            "a/",
            ":tag",
            "model:",
            "model:a:b",
            "..",
            ".",
            "../../etc",
            "../../../etc/passwd",
            "library/../x",
            "model:..",
            "model:../x",
            "a/b/c:d/e",
            "https://",
            "http://http://host/some/model",
            "ftp://host/some/model",
            "user@host/some/model",
            "a@b",
            "model@",
            "@" + PIN,
            "model@" + PIN[:-1],
            "model@" + PIN + "0",
            "model@" + PIN.upper(),
            "model@md5:" + "0" * 32,
            "model@" + PIN + "@" + PIN,
            "model@" + PIN + ":tag",
        ],
    )
    def test_what_is_no_name_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidName) as caught:
            ModelName.parse(text)
        assert str(caught.value).startswith("invalid model name: ")
        check_sentence(str(caught.value))


class TestProperties:
    @given(names)
    def test_every_name_reads_back_from_how_it_is_shown(self, name: ModelName) -> None:
        assert ModelName.parse(str(name)) == replace(name, digest=None)

    @given(names)
    def test_every_name_reads_back_from_its_full_form_with_its_pin(self, name: ModelName) -> None:
        pin = f"@{name.digest}" if name.digest else ""
        assert ModelName.parse(name.full + pin) == name

    @given(names)
    def test_no_part_of_a_name_leads_out_of_a_folder(self, name: ModelName) -> None:
        for part in (name.host, name.namespace, name.model, name.tag):
            assert "/" not in part
            assert "\0" not in part
            assert part not in ("", ".", "..")
            assert part.isascii()

    @given(st.text() | st.text("aZ9_-.:/@%\0\n ", max_size=30) | st.text("./:@ah", max_size=12))
    @example("a" * (1 << 20))
    @example("/" * 100_000)
    @example("\ud800")
    @example("\U0001ca29" * 80)
    def test_any_text_is_a_name_or_raises_invalid_name_and_nothing_else(self, text: str) -> None:
        sentence = "one"
        try:
            name = ModelName.parse(text)
        except InvalidName as error:
            sentence = str(error)
        else:
            assert ModelName.parse(name.full) == replace(name, digest=None)
        check_sentence(sentence)
        assert len(sentence) < 400
