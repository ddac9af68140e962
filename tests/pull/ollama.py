"""What an Ollama does on disk while it downloads a blob: `python -m tests.pull.ollama BLOBS HEX SOURCE PART BYTES`.

It makes the sparse file and the files of all parts, then writes so many bytes of each part, from its start, 32 KiB at a
time, says so, and waits to be killed: the files of the parts say what they said when it began.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.models import Blob

ROOT = Path(__file__).parents[2]
COPY_BYTES = 32 << 10


def kill_in_the_middle(blobs: Path, blob: Blob, source: Path, *, part: int, count: int) -> Path:
    """An Ollama that had `count` bytes of each of its parts of `part` bytes is killed (-9); its partial file."""
    source.write_bytes(blob.data)
    blobs.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "tests.pull.ollama",
        blobs,
        blob.digest.hex,
        source,
        str(part),
        str(count),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    return blobs / f"{blob.digest.file_name}-partial"


def main() -> None:
    """See the module."""
    blobs, name, source, part, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    size = os.stat(source).st_size
    partial = f"{blobs}/sha256-{name}-partial"
    for number, offset in enumerate(range(0, size, part)):
        told = {"N": number, "Offset": offset, "Size": min(part, size - offset), "Completed": 0}
        Path(f"{partial}-{number}").write_text(json.dumps(told))
    with open(source, "rb") as reader, open(partial, "wb") as writer:
        writer.truncate(size)
        for offset in range(0, size, part):
            stop = min(offset + count, offset + part, size)
            for start in range(offset, stop, COPY_BYTES):
                os.pwrite(writer.fileno(), os.pread(reader.fileno(), min(COPY_BYTES, stop - start), start), start)
        sys.stdout.write("written\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
