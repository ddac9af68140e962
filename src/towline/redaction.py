"""What secrets look like, and text without them: one rule for whatever is logged, printed or answered.

>>> redact("GET https://user:pw@blobs.example/x?X-Signature=abc failed")
'GET https://blobs.example/x?*** failed'
>>> redact("{'Authorization': 'Bearer abc', 'Accept': '*/*'}")
"{'Authorization': '***', 'Accept': '*/*'}"

It looks for shapes, so it hides too much rather than too little; secrets that are known, the environment's for one, are
looked for by themselves, as they may stand anywhere. Every pattern takes time in proportion to the text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

HIDDEN = "***"

_START = r"(?:(?<![\w-])|(?<=\\[rn]))"
_NAME = (
    _START + r"[\w-]{0,40}?(?:token|passw(?:or)?d|passphrase|secret|credential|signature|api[_-]?key|access[_-]?key"
    r"|private[_-]?key|session[_-]?id|jwt)[\w-]{0,40}|" + _START + r"(?:key|sig|pwd)(?![\w-])"
)
_HEADER = rf"{_START}(?:(?:proxy-)?authorization|(?:set-)?cookie2?)(?![\w-])"
_QUOTED = r"(?P<escape>\\*)(?P<mark>[\"']).{0,4000}?(?<!\\)(?P=escape)(?P=mark)"
"""A string with its quotes, which are escaped where it stands inside of another one."""

_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), instead)
    for pattern, instead in (
        # user:password@ of an address, then of one without its scheme; a digest behind an @ is a name's
        (r"([a-z][a-z0-9+.-]{0,20}://)[^\s/?#'\"<>]*@", r"\1"),
        (r"(?<![^\s'\"<>(){}\[\],;=])[^\s/:@'\"<>(){}\[\],;=]{1,80}:[^\s/@'\"<>]{1,200}@(?!sha256[:-])(?=[\w\[])", ""),
        # the query of an address
        (r"(?<=[^\s'\"<>?])\?[\w%][^\s'\"<>]*", f"?{HIDDEN}"),
        # headers whose whole value is secret: as a mapping or a pair shows them, then as they are sent
        (rf"({_HEADER}\\*['\"]\s*[:,]\s*b?)(?:{_QUOTED})", rf"\1'{HIDDEN}'"),
        (rf"({_HEADER}\s*[:=]\s*)(?:[^\r\n\\]|\\(?![rn]))+", rf"\1{HIDDEN}"),
        # values with a name that says it
        (rf"((?:{_NAME})(?:\\*['\"]\s*[:,]\s*b?|\s*:\s+|=))(?:{_QUOTED}|[^\s,;&'\"<>(){{}}\[\]]+)", rf"\1{HIDDEN}"),
        # tokens, by how they begin
        (r"\bbearer\s+(?!(?:realm|error|scope|service)\b)[a-z0-9._~+/=-]{4,}", HIDDEN),
        (r"\beyJ[\w-]{8,}\.[\w-]*(?:\.[\w-]*)?", HIDDEN),
        (r"\b(?:hf_|gh[a-z]_|github_pat_|glpat-|sk-|xox[a-z]-)[\w-]{8,}", HIDDEN),
    )
)
_BASIC = re.compile(r"\b[Bb]asic\s+(?=[A-Za-z0-9+/_-]*[A-Z0-9=])[A-Za-z0-9+/_=-]{6,}")
_SECRET_NAME = re.compile(f"{_HEADER}|{_NAME}", re.IGNORECASE)

_SECRET_VARIABLE = re.compile(
    r"TOKENS?(?![A-Z])|PASSW(?:OR)?D|PASSPHRASE|SECRET|CREDENTIAL|(?:API|ACCESS|PRIVATE)_?KEY", re.IGNORECASE
)
_NO_SECRET = re.compile(r"true|false|on|off|yes|no|[\d.,_+-]+", re.IGNORECASE)
"""Switches and numbers, which stand in every other line: hidden by the shapes alone."""

_QUERIED = re.compile(r"[?&][^=&\s,]*=([^&\s,]+)")

_SHORTEST = 5
"""Characters: shorter secrets are left to the shapes, as their text is found in every other word."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without what looks like a secret, and without these; the longest have to come first."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return _BASIC.sub(HIDDEN, text)


def is_secret(name: str) -> bool:
    """Whether a value of this name is one."""
    return _SECRET_NAME.fullmatch(name) is not None


def secrets_in(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The secrets that an environment holds, by the names of its variables, as `forms_of` gives them."""
    found: set[str] = set()
    for name, value in environ.items():
        if _SECRET_VARIABLE.search(name):
            found.add(value.strip())
        for user_info in re.findall(r"://([^\s,]*)@", value):
            user, colon, password = user_info.partition(":")
            found.update((user_info, password if colon else user))
        if "://" in value or name.upper().startswith(("OLLAMA_", "TOWLINE_")):
            found.update(queried(value))
    return forms_of(secret for secret in found if not _NO_SECRET.fullmatch(secret))


def queried(text: str) -> set[str]:
    """The values in the queries of the addresses in a text, a signature among them, but for switches and numbers."""
    return {value for value in _QUERIED.findall(text) if not _NO_SECRET.fullmatch(value)}


def forms_of(secrets: Iterable[str]) -> tuple[str, ...]:
    """Every form in which these are sent, for `redact`: the longest first, without those that are too short."""
    forms = {form for secret in secrets for form in (secret, unquote(secret), quote(unquote(secret), safe=""))}
    forms |= {base64.b64encode(form.encode()).decode() for form in forms}
    return tuple(sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True))
