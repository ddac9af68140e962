"""No shape in which a secret stands in a log gets through; what is none stays."""

from __future__ import annotations

import json
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.redaction import is_secret, redact, secrets_in

SECRET = "pl4nted.Value_7"

LEAKS = [
    "https://user:{}@blobs.example/x",
    "http://{}@blobs.example:8080/x",
    "socks5h://u:{}@proxy",
    "user:{}@blobs.example/x",
    "(user:{}@[::1]:5000)",
    "https://blobs.example/x?X-Amz-Signature={}&a=b",
    "https://blobs.example/x?{}",
    "/v2/library/x/blobs/sha256:ab?Policy={}",
    '"GET /x?sig={} HTTP/1.1" 200',
    "Failed to parse headers (url=https://blobs.example:443/x?a=1&Sig={}): [Defect()], unparsed data: 'garbage\\r\\n'",
    "unparsed data: 'garbage\\r\\nSet-Cookie: session={}; Secure\\r\\nX: y'",
    "Authorization: Bearer {}",
    "authorization:Basic {}",
    "Proxy-Authorization: {}\r\nHost: x",
    'Authorization: Digest username="u", response="{}"',
    "Cookie: a=b; c={}",
    "{{'Authorization': 'Bearer {}', 'Accept': '*/*'}}",
    "[('Authorization', '{}')]",
    "<CIMultiDict('Host': 'x', 'Authorization': 'Bearer {}')>",
    "(b'Authorization', b'{}')",
    "a bearer {} was refused",
    '{{"token":"{}","expires_in":300}}',
    '{{"access_token": "{}"}}',
    '"{{\\"refresh_token\\": \\"{}\\"}}"',
    '{{"token":"x\\"{}"}}',
    "{{'password': '{}'}}",
    "password={}",
    "client_secret={}&scope=pull",
    "X-Api-Key: {}",
    "api_key: {}",
    "key={}",
    "HF_TOKEN={}",
    "Login(user='u', password='{}')",
]

HARMLESS = [
    "model 'token:latest' not found",
    "secret/password-cracker:7b",
    "reg.example:5000/library/tiny:latest@sha256:0123, tiny:1b@sha256:0123",
    "at 10:30 write to me@host.example",
    "library/api-key:latest@sha256:0123",
    "KeyError: 'digest'",
    "cannot reach registry.ollama.ai: the connection was refused; check the network",
    "basic authentication is not what it asks for; log in first",
    "is the registry up? check https://registry.ollama.ai/v2/",
    "sha256:8daa9615cce3 has another content",
    '"GET /v2/library/tiny/manifests/latest HTTP/1.1" 200 534',
    'write it as in {"model": "llama3.2"}',
]


@pytest.mark.parametrize("leak", LEAKS)
def test_a_secret_is_hidden_wherever_it_stands(leak: str) -> None:
    for text in (leak.format(SECRET), f"before it: {leak.format(SECRET)}, after it", f"\n{leak.format(SECRET)}\n"):
        assert SECRET not in redact(text)
        assert SECRET not in redact(repr(text))
        assert SECRET not in redact(json.dumps(text))


def test_basic_credentials_are_hidden() -> None:
    assert redact("sent Basic dXNlcjpwYXNz to it") == "sent *** to it"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text(alphabet="htps:/@?=&'\"\\ {}token,key-Authorization;\r\n", max_size=300))
def test_any_text_can_be_redacted_twice(text: str) -> None:
    assert redact(redact(text)) is not None


PIECES = [
    *("a", "?", "token", "://", '"', "key='", "https://a", "http://", "a-", "authorization:'", "\\", "token':'", "a?b"),
    *("eyJ", "bearer ", "a.b@", "token: ", "Basic ", "authorization: '\\", "\\'", "sk-", "token='\\\\", "hf_a"),
]


@pytest.mark.parametrize("piece", PIECES)
def test_no_text_takes_long(piece: str) -> None:
    text = piece * (20_000 // len(piece))
    started = time.process_time()
    redact(text)
    assert time.process_time() - started < 2  # a guard: it takes milliseconds


def test_the_secrets_of_the_environment_are_known_in_every_form() -> None:
    secrets = secrets_in(
        {
            "HTTPS_PROXY": "http://me:p%40ss/word@proxy:3128",
            "OLLAMA_HOST": "http://127.0.0.1:11434?ticket=entry-ticket",
            "HF_TOKEN": "hugging",
            "PATH": "/bin:/usr/bin",
        }
    )
    for form in ("p%40ss/word", "p@ss/word", "entry-ticket", "hugging", quote("p@ss/word", safe="")):
        assert redact(f"it says {form} here", secrets) == "it says *** here"
    assert redact("it says bWU6cEBzcy93b3Jk here", secrets) == "it says *** here"
    assert redact("/bin:/usr/bin", secrets) == "/bin:/usr/bin"


@pytest.mark.parametrize(
    ("name", "value", "known"),
    [
        ("TOKENIZERS_PARALLELISM", "parallel", False),
        ("USE_TOKEN", "false", False),
        ("USE_TOKEN", "TRUE", False),
        ("MAX_TOKENS", "4096.0", False),
        ("NGROK_AUTHTOKEN", "hunter2", True),
        ("GITHUB_TOKENS", "hunter2", True),
        ("hf_token", "hunter2", True),
        ("TOKEN_2", "hunter2", True),
    ],
)
def test_a_switch_or_a_number_is_no_secret_of_the_environment(name: str, value: str, known: bool) -> None:
    assert (value in secrets_in({name: value})) is known


@pytest.mark.parametrize("name", ["password", "Authorization", "access_token", "X-Api-Key", "set-cookie"])
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["model", "bytes", "sources", "event", "exception", "keyboard"])
def test_other_names_are_none(name: str) -> None:
    assert not is_secret(name)
