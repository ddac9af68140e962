"""What a server says of a request that it does not fulfil, fit to be shown: clean, short, and without secrets."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from towline.redaction import HIDDEN, forms_of, redact
from towline.registry.response import Response

MAX_CHARACTERS = 300
MAX_WORDS_BYTES = 16 << 10
"""Of an answer that are looked at."""

_MARKUP = re.compile(rb"\s*(?:<!doctype html|<html|<head|<body|<!--)", re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>([^<]*)</title", re.IGNORECASE)
_XML_MESSAGE = re.compile(r"<Message>([^<]*)</Message>", re.IGNORECASE)
_XML_CODE = re.compile(r"<Code>([^<]*)</Code>", re.IGNORECASE)

_KEYS = ("message", "error_description", "error", "msg", "detail", "details", "title", "reason")
"""Where APIs put their sentence, the most telling first."""

_DEEPEST = 8
"""Lists and objects within one another in which a sentence is looked for."""

_OPAQUE = re.compile(r"(?<![\w:])(?!sha256[:-])[A-Za-z0-9_+/=-]{40,}(?:\.[A-Za-z0-9_+/=-]+)*")
"""What may be a secret of whoever says it. Sentences and logs of towline's own hold such runs: digests, paths."""
_LOGIN = re.compile(
    r"log(?:ged)?[ -]?in|sign(?:ed)?[ -]?in|authenticat|authoriz|authoris|credential|password|anonymous|gated", re.I
)

_PLAIN_ABSENCE = re.compile(r".{0,40}\b(?:unknown|not found|not known|invalid)\b.{0,40}", re.I)


@dataclass(frozen=True, slots=True)
class Words:
    """What was said. `codes` are those of an OCI answer, `web_page` that it is a page for people (`text`: its title).
    `text` is empty where nothing was said that can be shown.
    """

    text: str = ""
    codes: tuple[str, ...] = ()
    web_page: bool = False

    @property
    def want_login(self) -> bool:
        """Whether a login is asked for: a refusal alone does not."""
        return "UNAUTHORIZED" in self.codes or (_LOGIN.search(self.text) is not None and not self.web_page)

    @property
    def unless_plain(self) -> str:
        """To stand behind a sentence that says already that something is not there."""
        return "" if _PLAIN_ABSENCE.fullmatch(self.text) else str(self)

    def __str__(self) -> str:
        """To stand behind a sentence."""
        if self.web_page:
            page = f"a web page ({self.text})" if self.text else "a web page"
            return f"; it sends {page}: a proxy or a captive portal may stand between, which a browser can show"
        return f"; it says: {self.text}" if self.text else ""


def words_of(response: Response) -> Words:
    """Reads what an answer says, as far as it comes at once. Raises Cancelled."""
    raw = response.glance(MAX_WORDS_BYTES)
    if response.headers.get("Content-Encoding", "identity") not in ("", "identity"):
        return Words(web_page=response.web_page)
    return read_words(raw, web_page=response.web_page, secrets=response.secrets)


def read_words(raw: bytes, *, web_page: bool = False, secrets: Iterable[str] = ()) -> Words:
    """What a body of an error says, in any of the forms that registries, hubs, object stores and proxies have.

    `secrets` are what the request carried.
    """
    shown = partial(cleaned, secrets=forms_of(secrets))
    text = raw.decode("utf-8", "replace")
    if web_page or _MARKUP.match(raw):
        title = _TITLE.search(text)
        return Words(shown(html.unescape(title[1])) if title else "", web_page=True)
    if text.lstrip()[:1] == "<":
        message = _XML_MESSAGE.search(text) or _XML_CODE.search(text)
        return Words(shown(html.unescape(message[1])) if message else "")
    try:
        answer = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if text.lstrip()[:1] in ("{", "["):
            return Words()
        return Words(next((line for line in map(shown, text.splitlines()) if line), ""))
    return Words(shown(next(_sentences(answer), "")), tuple(_codes(answer)))


def _codes(answer: Any) -> Iterator[str]:
    errors = answer.get("errors") if isinstance(answer, dict) else None
    for error in errors if isinstance(errors, list) else []:
        if isinstance(error, dict) and isinstance(error.get("code"), str):
            yield error["code"]


def _sentences(answer: Any, depth: int = 0) -> Iterator[str]:
    """Sentences of a JSON answer, the most telling first."""
    if isinstance(answer, str) and answer.strip():
        yield answer
    elif depth > _DEEPEST:
        return
    elif isinstance(answer, list):
        for each in answer:
            yield from _sentences(each, depth + 1)
    elif isinstance(answer, dict):
        yield from _sentences(answer.get("errors") or [], depth + 1)
        found = list(dict.fromkeys(text for key in _KEYS for text in _sentences(answer.get(key), depth + 1)))
        detail = answer.get("detail")
        if len(found) > 1 and detail in found[1:]:
            yield f"{found[0]}: {detail}"
        yield from found


def cleaned(text: str, secrets: Iterable[str] = ()) -> str:
    """One line of printable characters, `MAX_CHARACTERS` at most, without these secrets and what may be one."""
    text = "".join(char if char.isprintable() else " " for char in text[:MAX_WORDS_BYTES])
    text = _OPAQUE.sub(HIDDEN, redact(" ".join(text.split()), secrets))
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"
