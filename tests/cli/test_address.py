"""Where a client reaches a server, in every form in which the address may be written."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.cli import address
from towline.cli.address import Address
from towline.errors import InvalidRequest


def test_the_examples_in_the_documentation_hold() -> None:
    assert doctest.testmod(address).failed == 0


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("other", "http://other:11434"),
        ("other:80", "http://other:80"),
        ("http://other", "http://other:80"),
        ("HTTPS://other", "https://other:443"),
        ("https://other:8443/ollama/", "https://other:8443/ollama"),
        ("other/a b?q=1#x", "http://other:11434/a%20b"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        (":80", "http://127.0.0.1:80"),
        ("::", "http://[::1]:11434"),
        ("[::]:80", "http://[::1]:80"),
        ("0:0:0:0:0:0:0:0", "http://[::1]:11434"),
        ("http://[::0]:80", "http://[::1]:80"),
        ("[fe80::1%eth0]:80", "http://[fe80::1%eth0]:80"),
        ("'\"other:80\"'", "http://other:80"),
        ("other:99999", "http://other:11434"),
    ],
)
def test_every_form_that_ollama_takes_is_read_as_its_client_reads_it(text: str, url: str) -> None:
    assert Address.parse(text).url == url


@pytest.mark.parametrize("text", ["tcp://other", "unix:///run/ollama.sock", "ftp://other:21"])
def test_another_scheme_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="http"):
        Address.parse(text)


def test_a_password_is_sent_and_never_shown() -> None:
    parsed = Address.parse("https://me:pass%40word@other")
    assert parsed.authorization == "Basic bWU6cGFzc0B3b3Jk"
    assert not any("word" in shown or "bWU6" in shown for shown in (parsed.url, repr(parsed), str(parsed)))


@given(st.text() | st.text("0123456789.:[]/htps@\"' ", max_size=20))
def test_any_text_is_an_address_or_refused_and_nothing_else(text: str) -> None:
    try:
        parsed = Address.parse(text)
    except InvalidRequest:
        return
    assert parsed.url.startswith(("http://", "https://"))
