"""What the HTTP client's errors mean, in words that name the host and nothing more of an address."""

from __future__ import annotations

import errno
import socket
import ssl
from http.client import HTTPException
from urllib.parse import urlsplit

from urllib3.exceptions import HTTPError, LocationValueError, SSLError
from urllib3.exceptions import TimeoutError as UrlTimeoutError

from towline.errors import SourceBusy, SourceGone
from towline.registry.wire import Garbled

FAILURES = (HTTPError, HTTPException, OSError, ValueError)
"""What the client raises when a request, or its answer, fails."""

_UNREACHABLE = frozenset(
    (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
)
_NO_FILES = frozenset((errno.EMFILE, errno.ENFILE))


def translated(error: Exception, host: str) -> SourceBusy | SourceGone:
    """The source's error for one of `FAILURES`, raised while `host` was asked."""
    links = _links(error)
    codes = {link.errno for link in links if isinstance(link, OSError)}
    untrusted = next((link for link in links if isinstance(link, ssl.SSLCertVerificationError)), None)
    if untrusted is not None:
        why = untrusted.verify_message or "verification failed"
        return SourceGone(f"the TLS certificate of {host} cannot be trusted ({why}); check the system's certificates")
    if any(isinstance(link, socket.gaierror) for link in links):
        unknown = any(isinstance(link, socket.gaierror) and link.errno == socket.EAI_NONAME for link in links)
        return SourceBusy(f"the name {host} cannot be resolved; check it and the network", refused=unknown)
    if any(isinstance(link, ConnectionRefusedError) for link in links):
        return SourceBusy(f"{host} refuses connections; check the address, and that it runs", refused=True)
    if any(isinstance(link, (TimeoutError, UrlTimeoutError)) for link in links):
        return SourceBusy(f"{host} does not answer in time; check the network")
    if codes & _NO_FILES:
        return SourceBusy("too many files are open; raise the limit (ulimit -n) or lower TOWLINE_CONNECTIONS")
    if codes & _UNREACHABLE:
        return SourceBusy(f"{host} cannot be reached; check the network")
    if any(isinstance(link, (SSLError, ssl.SSLError)) for link in links):
        if any("WRONG_VERSION_NUMBER" in str(link) or "HTTP_REQUEST" in str(link) for link in links):
            return SourceGone(
                f"{host} does not speak TLS; name it in TOWLINE_PLAIN_HTTP if it is meant to be plain HTTP"
            )
        return SourceBusy(f"the TLS connection to {host} failed")
    if any(isinstance(link, Garbled) for link in links):
        return SourceBusy(f"{host} does not answer as HTTP servers do; check the address, and any proxy on the way")
    if isinstance(error, (LocationValueError, UnicodeError)):
        return SourceGone(f"{host} is not a valid address")
    return SourceBusy(f"the connection to {host} was lost")


def _links(error: BaseException) -> list[BaseException]:
    """The error and what it wraps: the client keeps the cause in its arguments, its `reason` or its context."""
    found: list[BaseException] = []
    todo: list[object] = [error]
    while todo and len(found) < 16:
        link = todo.pop()
        if isinstance(link, BaseException) and link not in found:
            found.append(link)
            todo += [getattr(link, "reason", None), link.__cause__, link.__context__, *link.args]
    return found


def host_of(url: str) -> str:
    """The host of an address, with its port, safe to show: no user, no path, no query."""
    try:
        return ascii(urlsplit(url).netloc.rpartition("@")[2][:80])[1:-1]
    except ValueError:
        return "an invalid address"
