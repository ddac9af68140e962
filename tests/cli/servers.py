"""What may answer where a server of Ollama's API is expected."""

from __future__ import annotations

import json
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from towline._version import __version__
from towline.model.digest import Digest
from towline.store.layout import store_id

Answers = Mapping[str, object]
"""What a path answers with: bytes as they are, anything else as JSON, a list as a line each."""


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    path: str
    body: Any
    authorization: str | None


@dataclass
class Server:
    """One that runs."""

    port: int
    scheme: str = "http"
    asked: list[Asked] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def pulls(self) -> list[Any]:
        """The bodies of the pulls that it was asked for."""
        return [asked.body for asked in self.asked if asked.path.endswith("/api/pull")]


@contextmanager
def answering(answers: Answers, *, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server that answers so, and anything else with the 404 of an Ollama."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(None)

        def do_POST(self) -> None:
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def answer(self, body: object) -> None:
            server.asked.append(Asked(self.path, body, self.headers["Authorization"]))
            found = answers.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(b"404 page not found" if found is None else _encoded(found))

        def log_message(self, *_: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as http:
        server = Server(http.server_port, "https" if tls else "http")
        if tls is not None:
            http.socket = tls.wrap_socket(http.socket, server_side=True)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


def _encoded(answer: object) -> bytes:
    if isinstance(answer, bytes):
        return answer
    lines = answer if isinstance(answer, list) else [answer]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def towline_over(store: Path, /, **info: object) -> Answers:
    """A towline over this store that takes every pull for done."""
    told = {"version": __version__, "store": str(store), "store_id": store_id(store), **info}
    return {"/towline/info": told, "/api/pull": {"status": "success"}}


LARGE, SMALL = Digest.of(b"large"), Digest.of(b"small")


def an_ollama(pull: Sequence[object] = (), models: Sequence[object] = ()) -> Answers:
    """An Ollama that answers as one was recorded to do."""
    return {
        "/": b"Ollama is running",
        "/api/version": {"version": "0.0.0"},
        "/api/tags": {"models": list(models)},
        "/api/pull": list(pull or OLLAMA_PULL),
    }


OLLAMA_PULL = (
    {"status": "pulling manifest"},
    # As long as nothing came, it leaves `completed` out; and it does not tell the last bytes of a layer.
    {"status": f"pulling {LARGE.short}", "digest": str(LARGE), "total": 214843960},
    {"status": f"pulling {LARGE.short}", "digest": str(LARGE), "total": 214843960, "completed": 14843960},
    {"status": f"pulling {LARGE.short}", "digest": str(LARGE), "total": 214843960, "completed": 154046168},
    {"status": f"pulling {SMALL.short}", "digest": str(SMALL), "total": 30468910, "completed": 17709188},
    {"status": "verifying sha256 digest"},
    {"status": "writing manifest"},
    {"status": "success"},
)

OLLAMA_MODEL = {
    "name": "127.0.0.1:5001/ns/m:t",
    "model": "127.0.0.1:5001/ns/m:t",
    "modified_at": "2023-11-15T01:36:20.00000012+02:00",
    "size": 4636,
    "digest": "a75e2a8dddec35b2469d1fc73392548f7451a579c2014346c42e85e24bb77d5b",
    "details": {"parent_model": "", "format": "gguf", "family": "llama", "families": None, "context_length": 2048},
    "capabilities": ["completion"],
}


if __name__ == "__main__":  # an Ollama at the default address, until its input ends; then it tells what it was asked
    with answering(an_ollama(models=[OLLAMA_MODEL]), port=11434) as running:
        sys.stdin.read()
        sys.stdout.write(" ".join(asked.path for asked in running.asked))
