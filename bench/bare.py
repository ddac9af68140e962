"""`python -m bench.bare HOST REPOSITORY DIGESTS CONNECTIONS`: the requests of a pull of many layers, and nothing else.

Each blob of the file DIGESTS, a line each, is asked for through towline's HTTP client, read and dropped, on as many
threads as there are connections: what remains of a pull when it keeps nothing. Prints milliseconds a blob.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from towline.registry.http import HttpClient
from towline.registry.wire import Allowance


def main(host: str, repository: str, digests: str, connections: str) -> None:
    """See the module. Raises AssertionError for an answer that is not the blob."""
    wanted = Path(digests).read_text().split()
    count = int(connections)
    client = HttpClient(connections=count, connect_timeout=10.0)
    url = f"http://{host}/v2/{repository}/blobs"
    left, lock = iter(wanted), threading.Lock()
    threads = [threading.Thread(target=_fetch, args=(client, url, left, lock)) for _ in range(count)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print((time.perf_counter() - start) * 1000 / len(wanted))


def _fetch(client: HttpClient, url: str, left: Iterator[str], lock: threading.Lock) -> None:
    buffer = memoryview(bytearray(1 << 20))
    while True:
        with lock:
            digest = next(left, None)
        if digest is None:
            return
        with client.call() as call:
            response = call.send("GET", f"{url}/{digest}", {}, allowance=Allowance(60.0))
            assert response.status == 200, response.status
            while response.readinto(buffer) != 0:
                pass


if __name__ == "__main__":
    main(*sys.argv[1:])
