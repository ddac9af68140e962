"""Manifests: what hostile bytes may do, which is nothing but InvalidManifest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.events import check_sentence
from tests.support.models import tiny
from towline.errors import InvalidManifest
from towline.model.digest import Digest
from towline.model.manifest import (
    DOCKER_MANIFEST,
    MAX_BLOB_BYTES,
    MAX_MANIFEST_BYTES,
    MODEL_LAYER,
    OCI_INDEX,
    OCI_MANIFEST,
    TEMPLATE_LAYER,
    Manifest,
    sole_entry,
)

A, B, C = (str(Digest.of(letter)) for letter in (b"a", b"b", b"c"))


def layer(digest: Any = A, size: Any = 1, media_type: Any = MODEL_LAYER) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def manifest(*layers: Any, **changed: Any) -> bytes:
    """A manifest of these layers, with fields changed; None leaves one out."""
    fields = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": layer(C), "layers": list(layers)} | changed
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def index(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}).encode()


def entry(digest: str = A, architecture: str = "amd64", media_type: str = OCI_MANIFEST) -> dict[str, Any]:
    platform = {"architecture": architecture, "os": "linux"}
    return {"mediaType": media_type, "digest": digest, "size": 7, "platform": platform}


class TestReading:
    def test_a_manifest_keeps_its_bytes_and_the_order_of_its_layers(self) -> None:
        raw = manifest(layer(B, 2), layer(A, 1))
        read = Manifest.parse(raw)
        assert read.raw == raw
        assert read.digest == Digest.of(raw)
        assert [str(each.digest) for each in read.layers] == [B, A]
        assert read.size == 2 + 1 + 1

    def test_a_generated_model_is_read_as_it_was_made(self) -> None:
        model = tiny()
        read = Manifest.parse(model.manifest)
        assert [blob.digest for blob in read.blobs] == [blob.digest for blob in model.blobs]
        assert [blob.size for blob in read.blobs] == [blob.size for blob in model.blobs]

    def test_a_layer_named_twice_is_one_blob(self) -> None:
        read = Manifest.parse(manifest(layer(A), layer(B), layer(A, media_type="other")))
        assert [str(blob.digest) for blob in read.blobs] == [A, B, C]

    def test_a_config_that_is_a_layer_too_is_one_blob(self) -> None:
        assert len(Manifest.parse(manifest(layer(C))).blobs) == 1

    def test_an_empty_layer_is_valid(self) -> None:
        assert Manifest.parse(manifest(layer(A, 0))).layers[0].size == 0

    def test_unknown_fields_and_missing_media_types_are_no_matter(self) -> None:
        raw = manifest({"digest": A, "size": 1, "urls": [], "annotations": {"a": 1}}, mediaType=None, subject={"x": 1})
        assert Manifest.parse(raw).layers[0].media_type == ""

    def test_the_first_layer_of_a_kind_is_found(self) -> None:
        read = Manifest.parse(manifest(layer(A, media_type="x"), layer(B), layer(A)))
        found = read.layer(MODEL_LAYER)
        assert found is not None
        assert str(found.digest) == B
        assert read.layer("none") is None

    @pytest.mark.parametrize("extra", [{}, {"manifests": None}])
    def test_a_model_that_runs_elsewhere_has_no_layers_and_one_blob(self, extra: dict[str, Any]) -> None:
        read = Manifest.parse(json.dumps({"schemaVersion": 2, "config": layer(C, 7), "layers": None, **extra}).encode())
        assert read.layers == ()
        assert [str(blob.digest) for blob in read.blobs] == [C]
        assert read.size == 7

    def test_a_layer_says_what_it_was_made_from(self) -> None:
        read = Manifest.parse(manifest({**layer(A), "from": "plain:latest"}, layer(B)))
        assert [each.origin for each in read.layers] == ["plain:latest", ""]


class TestStored:
    @pytest.mark.parametrize("raw", [b"{}", b"null", b'{"layers":null}', index(entry())])
    def test_a_file_that_names_nothing_is_a_manifest_without_anything(self, raw: bytes) -> None:
        read = Manifest.stored(raw)
        assert (read.config, read.layers, read.blobs, read.size) == (None, (), (), 0)
        assert read.digest == Digest.of(raw)

    def test_what_a_registry_sent_is_read_the_same(self) -> None:
        raw = manifest(layer(A, 1), layer(B, 2, "x"), {**layer(A, 1), "from": "y"})
        assert Manifest.stored(raw) == Manifest.parse(raw)

    def test_a_config_may_be_missing(self) -> None:
        read = Manifest.stored(manifest(layer(A, 3), config=None))
        assert read.config is None
        assert (read.size, len(read.blobs)) == (3, 1)

    def test_a_digest_that_is_none_costs_its_layer_alone(self) -> None:
        read = Manifest.stored(manifest(layer(A, 3), layer("sha256:zz", 4, "x"), layer(None, 5), None))
        assert [str(each.digest) for each in read.layers] == [A]
        assert read.size == 3 + 4 + 5 + 1

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"[]",
            b'{"schemaVersion":2,',
            b"[" * 100_000,
            b'{"layers":{}}',
            b'{"layers":[{"size":"1"}]}',
            manifest(layer("sha256:zz")),
            manifest(layer("sha256:../../x", media_type=TEMPLATE_LAYER)),
            manifest(layer(A), config=layer("sha256:zz")),
        ],
        ids=lambda raw: repr(raw)[:50],
    )
    def test_what_the_list_of_an_ollama_hides_is_refused(self, raw: bytes) -> None:
        with pytest.raises(InvalidManifest):
            Manifest.stored(raw)


class TestRefusing:
    @pytest.mark.parametrize(
        ("raw", "says"),
        [
            (b"", "did not send a manifest"),
            (b"\xff\xfe{}", "did not send a manifest"),
            (b'{"layers": ["\xc3\x28"]}', "did not send a manifest"),
            (b"null", "did not send a manifest"),
            (b"[]", "did not send a manifest"),
            (b"[" * (1 << 20), "did not send a manifest"),
            (b'{"a":' * (1 << 18) + b"1" + b"}" * (1 << 18), "did not send a manifest"),
            (b'{"config":' * 100_000, "did not send a manifest"),
            (b"<!DOCTYPE html><html></html>", "but a web page"),
            (b"  \n<html>", "but a web page"),
            (b"{}" + b" " * MAX_MANIFEST_BYTES, "larger than 4 MiB"),
            (b"{}", "without a config"),
            (manifest(layer(), config=None), "without a config"),
            (manifest(layers=None), "without a list of layers"),
            (manifest(layer(size=-1)), "impossible layer size"),
            (manifest(layer(size=MAX_BLOB_BYTES + 1)), "impossible layer size"),
            (manifest(layer(size=10**30)), "impossible layer size"),
            (manifest(config=layer(size=-5)), "impossible layer size"),
            (manifest(layer(size="1")), "did not send a manifest"),
            (manifest(layer(size=1.5)), "did not send a manifest"),
            (manifest(layer(size=None)), "did not send a manifest"),
            (manifest(layer(digest="sha256:../../../../etc/passwd")), "invalid digest"),
            (manifest(layer(digest=f"sha256:{'../' * 21}a")), "invalid digest"),
            (manifest(layer(digest=A.upper())), "invalid digest"),
            (manifest(layer(digest="")), "invalid digest"),
            (manifest(layer(digest=None)), "did not send a manifest"),
            (manifest(layer(digest="sha512:" + "0" * 128)), "invalid digest"),
            (manifest(config=layer("nonsense")), "invalid digest"),
            (manifest(layer(A, 1), layer(A, 2)), "gives two sizes"),
            (manifest(layer(C, 2)), "gives two sizes"),
            (manifest("layer"), "did not send a manifest"),
            (index(entry(), entry(B)), "index of several platforms"),
        ],
        ids=lambda value: repr(value)[:60],
    )
    def test_what_is_no_manifest_of_a_model_is_refused_with_a_sentence(self, raw: bytes, says: str) -> None:
        with pytest.raises(InvalidManifest, match=says) as caught:
            Manifest.parse(raw)
        check_sentence(str(caught.value))

    @given(st.binary() | st.binary().map(lambda tail: b'{"layers":' + tail))
    @example(b'{"layers":[{"digest":"\\ud800","size":0}],"config":{"digest":"","size":0}}')
    @example(b'{"schemaVersion":' + b"9" * 5000 + b"}")
    @example(b'{"schemaVersion":1e999}')
    def test_any_bytes_are_a_manifest_or_raise_invalid_manifest_and_nothing_else(self, raw: bytes) -> None:
        for read in (Manifest.parse, Manifest.stored, sole_entry):
            try:
                read(raw)
            except InvalidManifest as error:
                check_sentence(str(error))

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([A, B, C]),
        lambda values: (
            st.lists(values, max_size=4)
            | st.dictionaries(st.sampled_from(["digest", "size", "mediaType", "config", "platform"]), values)
        ),
    )

    @given(
        st.dictionaries(st.sampled_from(["schemaVersion", "mediaType", "config", "layers", "manifests"]), json_values)
    )
    def test_any_json_is_a_manifest_or_raises_invalid_manifest_and_nothing_else(self, fields: dict[str, Any]) -> None:
        raw = json.dumps(fields).encode()
        for read in (Manifest.parse, Manifest.stored, sole_entry):
            try:
                read(raw)
            except InvalidManifest as error:
                check_sentence(str(error))


class TestIndex:
    def test_a_manifest_is_no_index(self) -> None:
        assert sole_entry(manifest(layer())) is None

    def test_the_only_entry_is_the_model(self) -> None:
        assert str(sole_entry(index(entry()))) == A

    def test_attestations_do_not_count(self) -> None:
        assert str(sole_entry(index(entry(A, "unknown"), entry(B), entry(C, "unknown")))) == B

    def test_entries_that_are_no_manifests_do_not_count(self) -> None:
        assert str(sole_entry(index(entry(A, media_type=OCI_INDEX), entry(B)))) == B

    @pytest.mark.parametrize("entries", [[], [entry(A), entry(B)], [entry(A, "unknown")]])
    def test_none_or_several_that_fit_are_refused_with_a_sentence_that_says_so(self, entries: list[Any]) -> None:
        with pytest.raises(InvalidManifest, match=f"an index of {len(entries)} platforms") as caught:
            sole_entry(index(*entries))
        check_sentence(str(caught.value))

    def test_an_entry_with_a_path_in_its_digest_is_refused(self) -> None:
        with pytest.raises(InvalidManifest, match="invalid digest"):
            sole_entry(index(entry("sha256:../../x")))
