"""nginx as a registry: files laid out as the protocol's paths, sent with sendfile, and a log of when they had gone."""

from __future__ import annotations

import os
import re
import shutil
from types import TracebackType
from typing import Self

from tests.support.listener import unused_port
from tests.support.models import Model
from tests.support.server_process import ServerProcess

from bench.workspace import Workspace
from towline.model.manifest import DOCKER_MANIFEST

PROGRAM = "nginx"
WORKERS = 2
PACED_RATE = 400_000_000
"""Bytes a second: less than SHA-256 takes on one core here."""

# Ollama asks for the length with HEAD and insists on a Location in the answer (contract, section 6).
_CONFIG = """\
daemon off;
{user}
worker_processes {workers};
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  log_format sent '$msec $request_method $uri $status $body_bytes_sent';
  access_log {directory}/access.log sent;
  client_body_temp_path {directory}/temp;
  proxy_temp_path {directory}/temp;
  fastcgi_temp_path {directory}/temp;
  uwsgi_temp_path {directory}/temp;
  scgi_temp_path {directory}/temp;
  sendfile on;
  sendfile_max_chunk 2m;
  tcp_nopush on;
  keepalive_requests 1000000;
  default_type application/octet-stream;
  map $http_user_agent $location {{ default ""; ~^ollama $uri; }}
  server {{
    listen 127.0.0.1:{port};
    {tls}
    root {directory}/root;
    location ~ /manifests/ {{ default_type {manifest}; }}
    location ~ /blobs/ {{ add_header Location $location; }}
  }}
  server {{
    listen 127.0.0.1:{paced_port};
    root {directory}/root;
    limit_rate {paced_rate};
    location ~ /manifests/ {{ default_type {manifest}; }}
  }}
}}
"""
_TLS = "listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};"
_SENT = re.compile(r"^(?P<at>[\d.]+) GET \S+/blobs/(?P<digest>\S+) 20[06] ", re.MULTILINE)


class Origin:
    """A running nginx: plain on `port`, with TLS on `tls_port`, at PACED_RATE a connection on `paced_port`."""

    def __init__(self, work: Workspace) -> None:
        self._work = work
        self._directory = work.fresh("nginx")
        self._log = self._directory / "access.log"
        self.port, self.tls_port, self.paced_port = (unused_port() for _ in range(3))
        (self._directory / "temp").mkdir()
        config = self._directory / "nginx.conf"
        authority = work.authority
        tls = _TLS.format(port=self.tls_port, certificate=authority.certificate, key=authority.key)
        config.write_text(
            _CONFIG.format(
                directory=self._directory,
                workers=WORKERS,
                port=self.port,
                paced_port=self.paced_port,
                paced_rate=PACED_RATE,
                tls=tls,
                manifest=DOCKER_MANIFEST,
                user="user root;" if os.geteuid() == 0 else "",
            )
        )
        self._process = ServerProcess(
            [PROGRAM, "-p", self._directory, "-c", config], port=self.port, log=self._directory / "nginx.log"
        )

    def hold(self, model: Model, repository: str) -> str:
        """Has the model from now on; returns its name with host and port, for the plain side."""
        base = self._directory / "root" / "v2" / repository
        for blob in model.blobs:
            self._work.place(blob, base / "blobs" / str(blob.digest))
        manifests = base / "manifests"
        manifests.mkdir(parents=True)
        (manifests / "latest").write_bytes(model.manifest)
        return f"127.0.0.1:{self.port}/{repository}:latest"

    def url(self, model: Model, repository: str, *, tls: bool = False) -> str:
        """Where the model's weights are."""
        base = f"https://127.0.0.1:{self.tls_port}" if tls else f"http://127.0.0.1:{self.port}"
        return f"{base}/v2/{repository}/blobs/{model.weights.digest}"

    @property
    def tls_environment(self) -> dict[str, str]:
        """Settings with which towline pulls `registry.ollama.ai/…` from the TLS side."""
        return {
            "TOWLINE_MIRRORS": f"registry.ollama.ai=https://127.0.0.1:{self.tls_port}",
            "SSL_CERT_FILE": str(self._work.authority.ca),
        }

    def last_sent(self, digest: str) -> float:
        """When (of `time.time`) nginx had handed the last byte of the blob to the kernel: a few megabytes of socket
        buffer before the client has it, so what is measured from here is never too short.
        """
        return max(float(each["at"]) for each in _SENT.finditer(self._log.read_text()) if each["digest"] == digest)

    def close(self) -> None:
        """Ends it and removes its files."""
        self._process.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
