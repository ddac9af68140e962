"""The one place where an exception becomes a status and a body.

Two forms: `{"error": "<sentence>"}` for the model API, `{"errors":[{"code","message"}]}` under `/v2/` (the OCI
distribution specification, "Error codes").
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

import msgspec
import structlog
from aiohttp import web

from towline.errors import InvalidName, InvalidRequest, NotFound, TowlineError
from towline.redaction import redact
from towline.server import shortage

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY_BYTES = 1 << 20
"""Section 1 of the contract. No request that is JSON here comes near it."""

JSON = "application/json; charset=utf-8"

INTERNAL = "internal error; the log on the server's stderr tells more"

SECRETS = web.AppKey("secrets", tuple[str, ...])
"""What the environment holds that no answer may show."""

log = structlog.get_logger("towline.server")


class Refused(Exception):
    """An error as the client will see it. `code` is the OCI code, shown under `/v2/` only."""

    def __init__(
        self, status: int, sentence: str, *, code: str = "UNSUPPORTED", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.code = code
        self.headers = dict(headers or {})


# The first that fits; everything else of the tree is a 500.
_KINDS: tuple[tuple[type[TowlineError], int, str], ...] = (
    (InvalidName, 400, "NAME_INVALID"),
    (InvalidRequest, 400, "UNSUPPORTED"),
    (NotFound, 404, "NAME_UNKNOWN"),
    (TowlineError, 500, "UNKNOWN"),
)


_WHAT_IS_THERE = (
    "of Ollama's API towline answers /api/pull, /api/tags and /api/version, as it keeps models and does not run them"
)


def refusal(error: BaseException, request: web.Request) -> Refused:
    """What the client is told about this error. One that nobody foresaw is a bug: it is logged with its traceback."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, web.HTTPException):
        return _from_aiohttp(error, request)
    for kind, status, code in _KINDS:
        if isinstance(error, kind):
            secrets = request.app[SECRETS]
            return Refused(status, redact(str(error), secrets), code=code)
    if what := shortage.what_is_short(error):
        shortage.tell(what)
        return Refused(503, shortage.sentence(what), code="TOOMANYREQUESTS")
    log.error("internal error", method=request.method, path=request.path[:200], exc_info=error)
    return Refused(500, INTERNAL, code="UNKNOWN")


def _from_aiohttp(error: web.HTTPException, request: web.Request) -> Refused:
    path = ascii(request.path if len(request.path) <= 80 else request.path[:77] + "...")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Refused(405, f"{request.method} does not work on {path}; use {allowed}", headers={"Allow": allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Refused(400, f"the request body is larger than {MAX_BODY_BYTES >> 20} MiB; send a smaller one")
    if isinstance(error, web.HTTPNotFound):
        return Refused(404, f"there is nothing at {path}; {_WHAT_IS_THERE}")
    if isinstance(error, web.HTTPExpectationFailed):
        return Refused(417, "the header Expect takes 100-continue and nothing else; leave it out")
    return Refused(error.status, f"{HTTPStatus(error.status).phrase.lower()}; the request cannot be answered")


def is_registry(request: web.Request) -> bool:
    """Whether the OCI form is expected."""
    return request.path == "/v2" or request.path.startswith("/v2/")


def respond(problem: Refused, request: web.Request) -> web.Response:
    """The answer in the form that this path's clients read."""
    headers = {**problem.headers, "Content-Type": JSON}
    return web.Response(body=error_body(problem, registry=is_registry(request)), status=problem.status, headers=headers)


def error_body(problem: Refused, *, registry: bool) -> bytes:
    """The error in the model API's form, or in the OCI form that a registry's clients read."""
    if registry:
        return msgspec.json.encode({"errors": [{"code": problem.code, "message": problem.sentence}]})
    return msgspec.json.encode({"error": problem.sentence})


def json_response(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer with the contract's content type (section 2)."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, headers={**(headers or {}), "Content-Type": JSON}
    )


def answered(handle: Handler) -> Handler:
    """The application with its errors turned into answers. Around all of it: middlewares do not see what fails before
    them, an `Expect` that aiohttp does not know for one.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handle(request)
        except ConnectionError:
            raise  # the client went away: aiohttp knows what to do
        except Exception as error:
            if isinstance(error, web.HTTPException) and error.status < 400:
                raise
            response = respond(refusal(error, request), request)  # no name for a refusal that holds this frame: a cycle
            if request.writer.output_size > 0:
                # Something of a 200 is out already. A cut connection is the only sign of failure that is left.
                raise ConnectionResetError("the answer failed after its head was sent") from error
            return response

    return answer
