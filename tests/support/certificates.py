"""Certificates for servers on loopback, made by the `openssl` command."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Authority:
    """A certificate authority of one test: `ca` goes to SSL_CERT_FILE of the client, the rest to servers.

    The server's certificate is valid for 127.0.0.1 and localhost.
    """

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def create(cls, directory: Path) -> Self:
        """Makes the authority and one server certificate under `directory`; takes about 50 ms."""
        directory.mkdir(parents=True, exist_ok=True)
        ca, ca_key = directory / "ca.pem", directory / "ca.key"
        certificate, key, request = (directory / f"server.{end}" for end in ("pem", "key", "csr"))
        extensions = directory / "server.cnf"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n")
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        _openssl("req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=Test CA")
        _openssl("req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1")
        issuer: list[str | Path] = ["-CA", ca, "-CAkey", ca_key, "-set_serial", "1"]
        signed: list[str | Path] = ["-out", certificate, "-days", "2", "-extfile", extensions]
        _openssl("x509", "-req", "-in", request, *issuer, *signed)
        return cls(ca, certificate, key)

    def server_context(self) -> ssl.SSLContext:
        """For a server that shows the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        """For a client that trusts the authority, and nothing else."""
        return ssl.create_default_context(cafile=str(self.ca))


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
