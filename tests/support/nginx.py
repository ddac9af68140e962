"""nginx as a blob host, a folder of blobs under signed addresses that expire, as object stores serve them; and as what
people put in front of a daemon.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import time
from pathlib import Path
from typing import Self

from tests.support.certificates import Authority
from tests.support.listener import unused_port
from tests.support.models import Blob
from tests.support.server_process import ServerProcess
from towline.model.digest import Digest

PROGRAM = "nginx"

# Debian's nginx-light is built with ngx_http_secure_link_module. 403 for a late address too, as object stores answer.
_CONFIG = """\
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
  log_format blobs '$request_method $uri $status $body_bytes_sent auth=$http_authorization range=$http_range';
  access_log {directory}/access.log blobs;
  client_body_temp_path {directory}/temp;
  proxy_temp_path {directory}/temp;
  fastcgi_temp_path {directory}/temp;
  uwsgi_temp_path {directory}/temp;
  scgi_temp_path {directory}/temp;
  sendfile on;
  tcp_nopush on;
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port} {tls};
    location /data/ {{
      secure_link $arg_sig,$arg_expires;
      secure_link_md5 "$secure_link_expires$uri {secret}";
      if ($secure_link = "") {{ return 403; }}
      if ($secure_link = "0") {{ return 403; }}
      alias {directory}/data/;
    }}
    location /plain/ {{ alias {directory}/data/; }}
  }}
}}
"""
# What every guide begins with: a proxy_pass, and nginx's defaults for all else.
_PROXY_CONFIG = """\
daemon off;
{user}
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {directory}/temp;
  proxy_temp_path {directory}/temp;
  fastcgi_temp_path {directory}/temp;
  uwsgi_temp_path {directory}/temp;
  scgi_temp_path {directory}/temp;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass {upstream}; }}
  }}
}}
"""
_USER = "user root;" if os.geteuid() == 0 else ""
_ACCESS = re.compile(r"^(?P<method>\S+) (?P<path>\S+) (?P<status>\d+) (?P<sent>\d+) auth=(?P<auth>.*) range=.*$", re.M)


class Nginx:
    """A running nginx with a folder for blobs. It can be the blob host of a FaultRegistry."""

    def __init__(self, directory: Path, *, authority: Authority | None = None) -> None:
        """Starts it; with an authority it speaks TLS."""
        self.directory = directory
        self.port = unused_port()
        self.url = f"{'https' if authority else 'http'}://127.0.0.1:{self.port}"
        """Its base, without a slash at the end."""
        self._secret = secrets.token_hex(16)
        for name in ("data", "temp"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        tls = "ssl"
        if authority:
            tls = f"ssl; ssl_certificate {authority.certificate}; ssl_certificate_key {authority.key}"
        config = directory / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                directory=directory,
                port=self.port,
                secret=self._secret,
                tls=tls if authority else "",
                user=_USER,
            )
        )
        self._process = ServerProcess(
            [PROGRAM, "-p", directory, "-c", config],
            port=self.port,
            log=directory / "nginx.log",
            tls=authority.client_context() if authority else None,
        )

    def hold(self, blob: Blob) -> None:
        """Has the blob's bytes to give from now on."""
        (self.directory / "data" / blob.digest.hex).write_bytes(blob.content)

    def signed_url(self, digest: Digest, *, ttl: float = 3600) -> str:
        """An address of the blob, good for `ttl` seconds; less than none makes one that has expired."""
        return self.url + self.sign(f"/data/{digest.hex}", ttl)

    def plain_url(self, digest: Digest) -> str:
        """An address of the blob that needs no signature."""
        return f"{self.url}/plain/{digest.hex}"

    def sign(self, path: str, ttl: float) -> str:
        """The path with its expiry and signature."""
        expires = int(time.time() + ttl)
        signature = hashlib.md5(f"{expires}{path} {self._secret}".encode()).digest()
        return f"{path}?expires={expires}&sig={base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    def requests(self, which: Blob | Digest | None = None, method: str = "GET") -> list[tuple[int, int]]:
        """Status and bytes sent of each finished request for this blob, or for any."""
        digest = which.digest if isinstance(which, Blob) else which
        found = [each for each in self._access() if each["method"] == method]
        wanted = digest.hex if digest else "/data/"
        return [(int(each["status"]), int(each["sent"])) for each in found if wanted in each["path"]]

    def violations(self) -> list[str]:
        """Requests that showed credentials: the paths."""
        return [each["path"] for each in self._access() if each["auth"] != "-"]

    def close(self) -> None:
        """Ends it."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _access(self) -> list[re.Match[str]]:
        # One worker, one loop: when it answers this, the requests before it are in the log.
        self._process.probe()
        return list(_ACCESS.finditer((self.directory / "access.log").read_text()))


class Proxy:
    """A running nginx in front of a server, with its defaults."""

    def __init__(self, directory: Path, upstream: str) -> None:
        """Starts it; `upstream` is a base address."""
        self.port = unused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        """Its base, without a slash at the end."""
        (directory / "temp").mkdir(parents=True)
        config = directory / "nginx.conf"
        config.write_text(_PROXY_CONFIG.format(directory=directory, port=self.port, upstream=upstream, user=_USER))
        self._process = ServerProcess(
            [PROGRAM, "-p", directory, "-c", config], port=self.port, log=directory / "nginx.log"
        )

    def close(self) -> None:
        """Ends it."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
