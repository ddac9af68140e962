"""Debian's `docker-registry`: the CNCF distribution, the reference that every registry is measured by."""

from __future__ import annotations

import contextlib
import http.client
import re
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.support.challenges import basic
from tests.support.listener import unused_port
from tests.support.models import Blob, Model
from tests.support.server_process import ServerProcess
from towline.model.digest import Digest
from towline.model.manifest import DOCKER_MANIFEST

PROGRAM = "docker-registry"

_CONFIG = """\
version: 0.1
log:
  level: warn
  accesslog:
    disabled: false
storage:
  filesystem:
    rootdirectory: {storage}
http:
  addr: 127.0.0.1:{port}
"""
_AUTH = """\
auth:
  htpasswd:
    realm: test
    path: {path}
"""
_ACCESS = re.compile(r'"(?P<method>[A-Z]+) (?P<path>/\S*) HTTP/1\.1" (?P<status>\d{3})')


@dataclass(frozen=True)
class Login:
    """The one user of a registry that wants to know who is there."""

    username: str
    password: str


class DockerRegistry:
    """A running registry over an empty folder."""

    def __init__(self, directory: Path, *, login: Login | None = None) -> None:
        """Starts it. With a login it wants Basic credentials, and takes them itself when it is pushed to."""
        directory.mkdir(parents=True, exist_ok=True)
        self._login = login
        self.port = unused_port()
        config = directory / "config.yml"
        text = _CONFIG.format(storage=directory / "storage", port=self.port)
        if login:
            text += _AUTH.format(path=_htpasswd(directory / "htpasswd", login))
        config.write_text(text)
        self._seen = 0
        self._process = ServerProcess(
            [PROGRAM, "serve", config], port=self.port, log=directory / "registry.log", probe="/v2/", environment={}
        )

    @property
    def host(self) -> str:
        """`127.0.0.1:<port>`."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its base, without a slash at the end."""
        return f"http://{self.host}"

    def push(self, model: Model, repository: str, tag: str = "latest") -> str:
        """Uploads the blobs that are missing, then the manifest; returns the whole name, host and port included."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            for blob in model.blobs:
                self._upload(connection, blob, repository)
            path = f"/v2/{repository}/manifests/{tag}"
            self._ask(connection, "PUT", path, model.manifest, DOCKER_MANIFEST, expect=201)
        return f"{self.host}/{repository}:{tag}"

    def requests(self, method: str = "GET", path: str = "") -> list[str]:
        """The paths asked for with this method that hold `path`, oldest first, from the access log since `reset`."""
        asked = _ACCESS.finditer(self._settled_log(), self._seen)
        return [each["path"] for each in asked if each["method"] == method and path in each["path"]]

    def blob_requests(self, which: Blob | Digest | None = None) -> list[str]:
        """The GETs of this blob, or of any."""
        digest = which.digest if isinstance(which, Blob) else which
        return self.requests("GET", f"/blobs/{digest or ''}")

    def reset(self) -> None:
        """Forgets what it was asked."""
        self._seen = len(self._settled_log())

    def close(self) -> None:
        """Ends it."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settled_log(self) -> str:
        """The access log, once it holds a request made just now: those that ended before it are there as well."""
        mark = f"?mark={uuid.uuid4().hex}"
        self._process.probe(mark)
        deadline = time.monotonic() + 5
        while mark not in (log := self._process.output):
            assert time.monotonic() < deadline, "the registry writes no access log"
            time.sleep(0.002)
        return log

    def _upload(self, connection: http.client.HTTPConnection, blob: Blob, repository: str) -> None:
        if self._ask(connection, "HEAD", f"/v2/{repository}/blobs/{blob.digest}").status == 200:
            return
        begun = self._ask(connection, "POST", f"/v2/{repository}/blobs/uploads/", expect=202)
        location = urlsplit(begun.headers["Location"])
        target = f"{location.path}?{location.query}&digest={blob.digest}"
        self._ask(connection, "PUT", target, blob.data, "application/octet-stream", expect=201)

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        body: bytes | None = None,
        content_type: str = "",
        expect: int | None = None,
    ) -> http.client.HTTPResponse:
        headers = {"Content-Type": content_type} if content_type else {}
        if self._login:
            headers["Authorization"] = basic(self._login.username, self._login.password)
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        said = response.read()
        assert expect in (None, response.status), f"{method} {target}: {response.status} {said!r}"
        return response


def _htpasswd(path: Path, login: Login) -> Path:
    """A file of one user; the registry takes bcrypt only, which Debian's apache2-utils makes."""
    made = subprocess.run(
        ["htpasswd", "-Bbn", login.username, login.password], check=True, capture_output=True, text=True
    )
    path.write_text(made.stdout)
    return path
