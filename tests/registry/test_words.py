"""What registries, hubs, object stores, proxies and portals say of a refusal, and what of it is shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.registry.conftest import Resolve
from tests.support import faults
from tests.support.challenges import Bearer
from tests.support.events import check_sentence
from tests.support.exchanges import Exchange, manifest, token
from tests.support.models import tiny
from tests.support.registry import FaultRegistry
from tests.support.wire import Answer
from towline.errors import InvalidManifest, NotFound, RegistryError, TowlineError
from towline.registry.words import MAX_CHARACTERS, cleaned, read_words

MODEL = tiny()
PAGE = "a proxy or a captive portal may stand between"

JWT = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJlc2lnbmF0dXJl"
SQUID = (
    b"<!DOCTYPE html PUBLIC '-//W3C//DTD HTML 4.01//EN'>\n<html><head><title>ERROR: The requested URL could not be "
    b"retrieved</title></head><body><!-- ERR_ACCESS_DENIED --></body></html>"
)


def oci(code: str, message: str, detail: object = None) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message, "detail": detail}]}).encode()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (oci("DENIED", "requested access to the resource is denied"), "requested access to the resource is denied"),
        (oci("DENIED", "denied", "set TOWLINE_SERVE_REGISTRY=1"), "denied: set TOWLINE_SERVE_REGISTRY=1"),
        (oci("DENIED", "", "only words here"), "only words here"),
        (oci("UNAUTHORIZED", "authentication required", [{"Type": "repository"}]), "authentication required"),
        (b'{"error":"The specified tag is a sharded GGUF."}', "The specified tag is a sharded GGUF."),
        (b'{"code":"x","error":"no such thing"}', "no such thing"),
        (b'{"error":{"code":5,"message":"quota exceeded"}}', "quota exceeded"),
        (b'{"details":"incorrect username or password"}', "incorrect username or password"),
        (b'"just a string"', "just a string"),
        (b"\r\n\r\n  This version is too old.\r\nhttps://ollama.com/download\r\n", "This version is too old."),
        (b"Too Many Requests (HAP429)", "Too Many Requests (HAP429)"),
        (b"Not Authorized", "Not Authorized"),
        (
            b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Request has expired</Message>'
            b"<AWSAccessKeyId>AKIAEXAMPLE</AWSAccessKeyId></Error>",
            "Request has expired",
        ),
        (b"<Error><Code>ExpiredRequest</Code></Error>", "ExpiredRequest"),
        (b"", ""),
        (b"{}", ""),
        (b'{"errors":[]}', ""),
        (b'{"errors":null,"message":null}', ""),
        (b'{"broken', ""),
        (b"[" * 100_000, ""),
        (b'{"detail":' * 900 + b'"deep"' + b"}" * 900, ""),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_the_sentence_is_found_wherever_it_stands(body: bytes, text: str) -> None:
    assert read_words(body).text == text
    assert not read_words(body).web_page


@pytest.mark.parametrize("body", [SQUID, b"<html>", b"\n\n<!doctype HTML><title>Login</title>"])
def test_a_page_for_people_is_told_as_one(body: bytes) -> None:
    assert "a web page" in str(read_words(body))
    assert PAGE in str(read_words(body))


def test_the_title_of_a_page_is_shown() -> None:
    assert "(ERROR: The requested URL could not be retrieved)" in str(read_words(SQUID))


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("see https://user:word@host.example/a?sig=abc&b=1 now", "see https://host.example/a?*** now"),
        ("see user:word@host.example:5000/a now", "see host.example:5000/a now"),
        ("GET /data/x?X-Amz-Signature=0a1b failed", "GET /data/x?*** failed"),
        ("a=1&sig=abc&b=2 is wrong", "a=1&sig=***&b=2 is wrong"),
        (f"invalid token {JWT}", "invalid token ***"),
        ("Authorization: Bearer abc123def456", "Authorization: ***"),
        ("token=abc password: hunter2", "token=*** password: ***"),
        ("key " + "A1b2" * 12, "key ***"),
        ("authentication token required", "authentication token required"),
        ("Basic authentication is required", "Basic authentication is required"),
        ("manifest sha256:" + "ab" * 32 + " unknown", "manifest sha256:" + "ab" * 32 + " unknown"),
        ("a\x1b[31mb\u202ec\nd\te", "a [31mb c d e"),
    ],
)
def test_secrets_and_what_cannot_be_printed_are_left_out(said: str, shown: str) -> None:
    assert cleaned(said) == shown


@given(st.binary(max_size=2000) | st.text(max_size=2000).map(lambda text: json.dumps({"message": text}).encode()))
@example(b"a word " * 100)
def test_whatever_is_said_is_one_short_line_that_can_be_printed(body: bytes) -> None:
    text = read_words(body).text
    assert len(text) <= MAX_CHARACTERS
    assert text.isprintable()


class TestSentences:
    """The whole sentence of a pull, for answers as real ones look."""

    def refused(self, resolve: Resolve, kind: type[TowlineError] = RegistryError) -> str:
        with pytest.raises(kind) as caught:
            resolve("library/tiny")
        check_sentence(str(caught.value))
        return str(caught.value)

    @pytest.mark.parametrize(
        ("status", "body", "content_type", "says", "says_not"),
        [
            (
                412,
                b"\n\nThis version is too old: get the latest.\n",
                "text/plain",
                ["This version is too old"],
                ["login"],
            ),
            (400, b'{"error":"sharded GGUF"}', "application/json", ["answers 400", "it says: sharded GGUF"], ["login"]),
            (403, oci("DENIED", "set X to allow it"), "application/json", ["it says: set X to allow it"], ["login"]),
            (403, oci("DENIED", "please log in first"), "application/json", ["may want a login"], []),
            (403, b"", "text/plain", ["refuses the manifest", "status 403"], ["login", "says"]),
            (403, SQUID, "text/html", ["a web page", PAGE, "could not be retrieved"], ["login"]),
            (403, b"<html>Please log in</html>", "text/html; charset=utf-8", [PAGE], ["it may want a login"]),
            (451, b"<html>", "text/html", ["a web page"], []),
            (204, b"", "text/plain", ["answers 204"], []),
        ],
    )
    def test_a_refusal_is_told_with_the_words_of_who_refused(
        self,
        resolve: Resolve,
        registry: FaultRegistry,
        status: int,
        body: bytes,
        content_type: str,
        says: list[str],
        says_not: list[str],
    ) -> None:
        registry.fail(manifest(), faults.Replace(body, content_type, status), times=None)
        sentence = self.refused(resolve)
        assert all(each in sentence for each in says)
        assert not any(each in sentence for each in says_not)

    def test_an_empty_401_wants_a_login(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.fail(manifest(), faults.Replace(b"", status=401), times=None)
        assert "wants a login" in self.refused(resolve)

    def test_a_cloudflare_challenge_is_told_as_one(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.fail(manifest(), faults.Replace(b"<html><title>Just a moment...", "text/html", 403), times=None)
        registry.fail(manifest(), faults.Header("cf-mitigated", "challenge"), times=None)
        assert "wants to see a browser" in self.refused(resolve)

    def test_a_token_service_is_told_with_its_words(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.require(Bearer())
        registry.fail(token(), faults.Replace(oci("DENIED", "it may not exist"), status=403), times=None)
        sentence = self.refused(resolve)
        assert "wants a login" in sentence
        assert "it says: it may not exist" in sentence

    def test_a_page_in_place_of_a_manifest_is_told_as_one(self, resolve: Resolve, registry: FaultRegistry) -> None:
        registry.fail(manifest(), faults.web_page(), times=None)
        assert PAGE in self.refused(resolve, InvalidManifest)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (oci("MANIFEST_UNKNOWN", "manifest unknown"), ""),
            (b"404 page not found", ""),
            (oci("MANIFEST_UNKNOWN", "OCI index found, but Accept header does not support OCI indexes"), "OCI index"),
        ],
    )
    def test_what_is_not_there_is_told_with_words_that_say_more(
        self, resolve: Resolve, registry: FaultRegistry, body: bytes, words: str
    ) -> None:
        registry.fail(manifest(), faults.Replace(body, status=404), times=None)
        sentence = self.refused(resolve, NotFound)
        assert words in sentence
        assert ("it says" in sentence) is bool(words)

    def test_a_secret_that_is_said_is_not_repeated(self, resolve: Resolve, registry: FaultRegistry) -> None:
        said = f"no https://u:p@h.example/x?sig=secret for Bearer {JWT}"
        registry.fail(manifest(), faults.Replace(oci("DENIED", said), status=403), times=None)
        sentence = self.refused(resolve)
        assert "https://h.example/x" in sentence
        assert "eyJ" not in sentence

    @pytest.mark.parametrize("echo", ["{}", "x{}x", "no good: {} (sent: {})"])
    def test_a_token_that_was_sent_is_not_repeated_however_it_looks(
        self, resolve: Resolve, registry: FaultRegistry, echo: str
    ) -> None:
        def shows_a_token(exchange: Exchange) -> bool:
            return exchange.kind == "manifest" and "authorization" in exchange.headers

        class Echoes:
            def apply(self, answer: Answer) -> None:
                faults.Replace(oci("DENIED", echo.replace("{}", sent())), status=403).apply(answer)

        def sent() -> str:
            return registry.exchanges(shows_a_token)[-1].headers["authorization"].partition(" ")[2]

        registry.require(Bearer())
        registry.fail(shows_a_token, Echoes(), times=None)
        sentence = self.refused(resolve)
        assert "it says" in sentence
        assert sent() not in sentence

    def test_a_token_that_was_sent_is_not_repeated_out_of_a_manifest_either(
        self, resolve: Resolve, registry: FaultRegistry
    ) -> None:
        class Echoes:
            def apply(self, answer: Answer) -> None:
                token = registry.exchanges()[-1].headers["authorization"].partition(" ")[2]
                faults.Replace(MODEL.with_manifest(config={"digest": token, "size": 1}).manifest).apply(answer)

        registry.require(Bearer())
        registry.fail(lambda exchange: "authorization" in exchange.headers, Echoes(), times=None)
        assert "invalid digest '***'" in self.refused(resolve, InvalidManifest)
