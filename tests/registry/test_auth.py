"""Reading challenges: RFC 9110, section 11.6.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.registry.auth import MAX_TOKENS, Challenge, Token, Tokens, parse_challenges
from towline.registry.endpoints import Endpoint

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
    tokens, token = Tokens(), Token("secret", float("inf"))
    tokens.keep(ENDPOINT, "library/a", token)
    assert tokens.known(ENDPOINT, "library/a") is token
    assert tokens.known(ENDPOINT, "library/b") is None
    assert tokens.known(Endpoint("http://registry.example"), "library/a") is None
    assert tokens.known(Endpoint("https://registry.example:444"), "library/a") is None


def test_a_token_that_is_over_is_not_given() -> None:
    tokens = Tokens()
    tokens.keep(ENDPOINT, "library/a", Token("secret", 0.0))
    assert tokens.known(ENDPOINT, "library/a") is None


def test_a_token_that_is_refused_is_forgotten_and_one_that_came_meanwhile_is_not() -> None:
    tokens, old, new = Tokens(), Token("old", float("inf")), Token("new", float("inf"))
    tokens.keep(ENDPOINT, "library/a", new)
    tokens.forget(ENDPOINT, "library/a", old)
    assert tokens.known(ENDPOINT, "library/a") is new
    tokens.forget(ENDPOINT, "library/a", new)
    assert tokens.known(ENDPOINT, "library/a") is None


def test_what_is_kept_does_not_grow_with_the_repositories_that_were_asked_for() -> None:
    tokens = Tokens()
    for until in (0.0, float("inf")):
        for number in range(1200):
            tokens.keep(ENDPOINT, f"library/{number}", Token("secret", until))
    assert len(tokens._known) <= MAX_TOKENS
    assert tokens.known(ENDPOINT, "library/1199") is not None


def test_one_that_expired_goes_when_another_comes() -> None:
    tokens = Tokens()
    tokens.keep(ENDPOINT, "library/old", Token("secret", 0.0))
    tokens.keep(ENDPOINT, "library/new", Token("secret", float("inf")))
    assert len(tokens._known) == 1


def test_a_token_does_not_show_in_its_repr() -> None:
    assert "secret" not in repr(Token("secret", 1.0))
