"""Reading challenges: RFC 9110, section 11.6.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.registry.auth import Challenge, Token, Tokens, parse_challenges
from towline.registry.endpoints import Endpoint, Transport

ENDPOINT = Endpoint("https://registry.example")


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="a b"', [("basic", {"realm": "a b"})]),
        (
            'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull"',
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.example/token",
                        "service": "registry.example",
                        "scope": "repository:a/b:pull",
                    },
                )
            ],
        ),
        ("BEARER Realm=x", [("bearer", {"realm": "x"})]),
        ('bearer realm = "x" , service = y', [("bearer", {"realm": "x", "service": "y"})]),
        ('Bearer realm="a, b=\\"c\\""', [("bearer", {"realm": 'a, b="c"'})]),
        ('Bearer realm="a\\\\"', [("bearer", {"realm": "a\\"})]),
        ('Bearer realm=""', [("bearer", {"realm": ""})]),
        ('Basic realm="a", Bearer realm="b"', [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        ('Negotiate, Bearer realm="b"', [("negotiate", {}), ("bearer", {"realm": "b"})]),
        ('Bearer realm="b",error="invalid_token"', [("bearer", {"realm": "b", "error": "invalid_token"})]),
        ('Bearer realm="never closed', [("bearer", {})]),
        ("=", []),
    ],
)
def test_challenges_are_read(header: str, challenges: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header)[: len(challenges) or None] == [Challenge(*each) for each in challenges]


tokens = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8)
values = st.text(st.characters(min_codepoint=32, max_codepoint=126))


@given(st.lists(st.tuples(tokens, st.dictionaries(tokens, values, min_size=1, max_size=4)), max_size=3))
def test_what_was_written_is_read_back(given_challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(value: str) -> str:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    header = ", ".join(
        scheme + " " + ", ".join(f"{name}={quoted(value)}" for name, value in params.items())
        for scheme, params in given_challenges
    )
    assert parse_challenges(header) == [Challenge(*each) for each in given_challenges]


@given(st.text() | st.text('Bearer ="\\,realm \t', max_size=60))
def test_any_text_is_read_without_an_error(header: str) -> None:
    parse_challenges(header)


def test_a_token_is_given_to_the_endpoint_and_the_repository_that_it_is_for_and_to_nobody_else() -> None:
    known = Tokens(Transport(frozenset()))
    known.keep(ENDPOINT, "library/a", Token("secret", float("inf")))
    assert known.header(ENDPOINT, "library/a") == {"Authorization": "Bearer secret"}
    assert known.header(ENDPOINT, "library/b") == {}
    assert known.header(Endpoint("http://registry.example"), "library/a") == {}
    assert known.header(Endpoint("https://registry.example:444"), "library/a") == {}


def test_a_token_that_is_over_is_not_given() -> None:
    known = Tokens(Transport(frozenset()))
    known.keep(ENDPOINT, "library/a", Token("secret", 0.0))
    assert known.header(ENDPOINT, "library/a") == {}


def test_a_token_does_not_show_in_its_repr() -> None:
    assert "secret" not in repr(Token("secret", 1.0))
