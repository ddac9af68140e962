"""The service's own user at work in a store: `python -m tests.store.another_user UID FOLDER NAME`, started by root.

Pulls the model, downloads it once more after its blobs are gone, and removes everything.
"""

from __future__ import annotations

import encodings.ascii
import encodings.idna  # noqa: F401 - what is imported later may lie where this user cannot read
import os
import shutil
import sys
from pathlib import Path

from tests.support.pulling import Pulling
from towline.model.name import ModelName


def main() -> None:
    """All of it; a traceback where something was refused."""
    user, models, name = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    with Pulling(models) as pulling:
        pulling.pull(name)
        model = pulling.puller.store.find(ModelName.parse(name))
        assert model is not None
        for blob in model.manifest.blobs:
            Path(pulling.layout.blob(blob.digest)).unlink()
        pulling.pull(name)
    for entry in models.iterdir():
        shutil.rmtree(entry)


if __name__ == "__main__":
    main()
