"""`python -m bench.bare HOST REPOSITORY DIGESTS CONNECTIONS`: the requests of a pull of many layers, and nothing else.

Each blob of the file DIGESTS, a line each, is asked for through urllib3, read and dropped, on as many threads as there
are connections: what remains of a pull when it keeps nothing. Prints milliseconds a blob.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import urllib3


def main(host: str, repository: str, digests: str, connections: str) -> None:
    """See the module. Raises AssertionError for an answer that is not the blob."""
    wanted = Path(digests).read_text().split()
    count = int(connections)
    left, lock = iter(wanted), threading.Lock()
    threads = [threading.Thread(target=_fetch, args=(f"http://{host}", repository, left, lock)) for _ in range(count)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print((time.perf_counter() - start) * 1000 / len(wanted))


def _fetch(url: str, repository: str, left: Iterator[str], lock: threading.Lock) -> None:
    with urllib3.connection_from_url(url, maxsize=1, retries=False) as pool:
        while True:
            with lock:
                digest = next(left, None)
            if digest is None:
                return
            response = pool.urlopen("GET", f"/v2/{repository}/blobs/{digest}", decode_content=False)
            assert response.status == 200, response.status


if __name__ == "__main__":
    main(*sys.argv[1:])
