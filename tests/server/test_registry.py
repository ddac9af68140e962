"""`/v2/`: a store as a registry, asked as clients of registries ask."""

from __future__ import annotations

import http.client
import json
import os
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.support import FakePuller, Served, keep, serving
from tests.support.models import Blob, Model, generate, tiny
from tests.support.opened import opened
from tests.support.stores import crowded
from towline.model.digest import Digest
from towline.model.manifest import DOCKER_MANIFEST, LICENSE_LAYER, OCI_MANIFEST
from towline.server import oci
from towline.server.shelf import Shelf
from towline.settings import Listen, Settings
from towline.store.store import Store

MODEL = tiny()
REPOSITORY = "/v2/library/tiny"


@pytest.fixture
def root(served: Served) -> Path:
    """The store, with one model in it."""
    keep(served.puller.store.root, "tiny", MODEL)
    return served.puller.store.root


def test_the_base_says_that_it_is_a_registry(served: Served) -> None:
    for path in ("/v2/", "/v2"):
        answer = served.get(path)
        assert (answer.status, answer.json) == (200, {})
        assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("reference", ["latest", "LATEST", str(MODEL.digest)])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_manifest_comes_byte_for_byte(served: Served, root: Path, reference: str, method: str) -> None:
    answer = served.ask(method, f"{REPOSITORY}/manifests/{reference}")
    assert answer.status == 200
    assert answer.body == (MODEL.manifest if method == "GET" else b"")
    assert answer.headers["content-length"] == str(len(MODEL.manifest))
    assert answer.headers["content-type"] == DOCKER_MANIFEST
    assert answer.headers["docker-content-digest"] == str(MODEL.digest)
    assert answer.headers["etag"] == f'"{MODEL.digest}"'
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize(
    ("own", "sent"),
    [
        (OCI_MANIFEST, OCI_MANIFEST),
        ("", OCI_MANIFEST),
        ("text/html\r\nSet-Cookie: a=b", OCI_MANIFEST),
        ("ü/ü", OCI_MANIFEST),
    ],
)
def test_a_manifests_type_is_its_own(served: Served, own: str, sent: str) -> None:
    keep(served.puller.store.root, "other", MODEL.with_manifest(mediaType=own))
    answer = served.get("/v2/library/other/manifests/latest")
    assert (answer.status, answer.headers["content-type"]) == (200, sent)
    assert "set-cookie" not in answer.headers


def test_a_manifest_that_the_client_has_is_not_sent_again(served: Served, root: Path) -> None:
    for tag in (f'"{MODEL.digest}"', f'W/"x", "{MODEL.digest}"', "*"):
        answer = served.get(f"{REPOSITORY}/manifests/latest", If_None_Match=tag)
        assert (answer.status, answer.body) == (304, b"")
    assert served.get(f"{REPOSITORY}/manifests/latest", If_None_Match='"other"').status == 200


def test_a_blob_is_served_whole_with_what_stock_ollama_needs(served: Served, root: Path) -> None:
    for blob in MODEL.blobs:
        path = f"{REPOSITORY}/blobs/{blob.digest}"
        answer = served.get(path)
        assert (answer.status, answer.body) == (200, blob.data)
        assert answer.headers["location"] == path
        assert answer.headers["docker-content-digest"] == str(blob.digest)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["content-length"] == str(blob.size)


def test_a_blobs_head_tells_its_length(served: Served, root: Path) -> None:
    blob = MODEL.weights
    answer = served.ask("HEAD", f"{REPOSITORY}/blobs/{blob.digest}", headers={"Range": "bytes=0-1"})
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", str(blob.size))


def test_a_blob_that_is_nowhere_costs_no_look_at_any_model(tmp_path: Path) -> None:
    root = tmp_path / "models"
    crowded(root, 100)
    with serving(FakePuller(root)) as served, opened(root) as files:
        for number in range(30):
            answer = served.get(f"/v2/library/m{number}/blobs/{Digest.of(bytes([number]))}")
            assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")
    assert not files


def test_the_last_of_thousands_of_blobs_is_found_as_quickly_as_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model.of([Blob.of("x", b"%d" % number) for number in range(2000)])
    root = tmp_path / "models"
    keep(root, "many", model)
    shelf, repository = Shelf(Store(root)), oci.Repository(("registry.ollama.ai",), "library", "many")
    compared, equal = 0, Digest.__eq__

    def counted(one: Digest, other: object) -> bool:
        nonlocal compared
        compared += 1
        return equal(one, other)

    monkeypatch.setattr(Digest, "__eq__", counted)
    shelf.models(repository)
    compared = 0
    for wanted in (model.layers[0], model.layers[-1]):
        found = shelf.blob(repository, wanted.digest)
        assert found is not None
        assert found.size == len(wanted.data)
    assert compared < 20


def test_a_blob_is_looked_for_in_the_models_of_its_repository_alone(tmp_path: Path) -> None:
    root = tmp_path / "models"
    crowded(root, 20)
    keep(root, "tiny", MODEL, modified=1)
    with serving(FakePuller(root)) as served:
        with opened(root / "manifests") as files:
            assert served.get(f"{REPOSITORY}/blobs/{MODEL.weights.digest}", Range="bytes=0-9").status == 206
        assert {Path(path).name for path in files} == {"tiny", "latest"}
        with opened(root / "manifests") as files:
            assert served.get(f"{REPOSITORY}/blobs/{MODEL.weights.digest}", Range="bytes=10-").status == 206
            assert served.get(f"/v2/library/m1/blobs/{MODEL.weights.digest}").status == 404
        assert {Path(path).name for path in files} == {"tiny", "m1", "latest"}
        assert sum(path.endswith("latest") for path in files) == 1  # of m1


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_in_a_blobs_place_is_no_blob(served: Served, root: Path, make: Callable[[Path], None]) -> None:
    path = root / "blobs" / MODEL.weights.digest.file_name
    path.unlink()
    make(path)
    assert served.get(f"{REPOSITORY}/blobs/{MODEL.weights.digest}").code == "BLOB_UNKNOWN"


def test_a_manifest_that_no_registry_sent_is_not_served(served: Served, root: Path) -> None:
    keep(root, "bare", MODEL.with_manifest(config=None))
    assert "bare:latest" in [model["name"] for model in served.get("/api/tags").json["models"]]
    assert served.get("/v2/library/bare/manifests/latest").code == "NAME_UNKNOWN"
    assert served.get("/v2/_catalog").json == {"repositories": ["library/tiny"]}


def test_a_model_that_runs_elsewhere_is_served_like_any_other(served: Served) -> None:
    model = Model.of([], remote_model="big:1t", remote_host="https://models.example").with_manifest(layers=None)
    keep(served.puller.store.root, "big:cloud", model)
    assert served.get("/v2/library/big/manifests/cloud").body == model.manifest
    assert served.get(f"/v2/library/big/blobs/{model.config.digest}").body == model.config.data


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=100-299", 100, 300), ("bytes=16000-", 16000, None), ("bytes=-10", -10, None)],
)
def test_a_blobs_range_is_served(served: Served, root: Path, asked: str, start: int, stop: int | None) -> None:
    blob = MODEL.weights
    answer = served.get(f"{REPOSITORY}/blobs/{blob.digest}", Range=asked)
    part = range(blob.size)[start:stop]
    assert (answer.status, answer.body) == (206, blob.data[start:stop])
    assert answer.headers["content-range"] == f"bytes {part.start}-{part.stop - 1}/{blob.size}"
    assert answer.headers["location"].endswith(str(blob.digest))


def test_a_range_outside_of_the_blob_is_refused(served: Served, root: Path) -> None:
    blob = MODEL.weights
    answer = served.get(f"{REPOSITORY}/blobs/{blob.digest}", Range=f"bytes={blob.size}-")
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{blob.size}")
    assert answer.json["errors"]


def test_if_range_holds_for_the_digest_alone(served: Served, root: Path) -> None:
    blob = MODEL.weights
    path = f"{REPOSITORY}/blobs/{blob.digest}"
    assert served.get(path, Range="bytes=0-9", If_Range=f'"{blob.digest}"').status == 206
    assert served.get(path, Range="bytes=0-9", If_Range='"other"').status == 200


def test_an_empty_blob_is_served(served: Served) -> None:
    empty = Blob.of(LICENSE_LAYER, b"")
    keep(served.puller.store.root, "empty", Model.of([empty]))
    answer = served.get(f"/v2/library/empty/blobs/{empty.digest}")
    assert (answer.status, answer.body) == (200, b"")


def test_a_connection_is_used_again_after_a_blob(served: Served, root: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    for _ in range(3):
        connection.request("GET", f"{REPOSITORY}/blobs/{MODEL.weights.digest}", headers={"Range": "bytes=5-104"})
        assert connection.getresponse().read() == MODEL.weights.data[5:105]
        sock = connection.sock
    assert connection.sock is sock
    connection.close()


def test_a_large_blob_arrives_whole(served: Served) -> None:
    model = generate(64 << 20)
    keep(served.puller.store.root, "large", model)
    answer = served.get(f"/v2/library/large/blobs/{model.weights.digest}")
    assert Digest.of(answer.body) == model.weights.digest


def test_a_client_that_leaves_in_the_middle_of_a_blob_harms_nobody(served: Served) -> None:
    model = generate(64 << 20)
    keep(served.puller.store.root, "large", model)
    path = f"/v2/library/large/blobs/{model.weights.digest}"
    with served.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()) as connection:
        connection.recv(1000)
    assert served.get(path, Range="bytes=0-9").body == model.weights.data[:10]


def test_a_blob_of_another_repository_is_not_served(served: Served, root: Path) -> None:
    keep(root, "secret", tiny(7))
    hidden = tiny(7).weights.digest
    assert served.get(f"/v2/library/secret/blobs/{hidden}").status == 200
    answer = served.get(f"{REPOSITORY}/blobs/{hidden}")
    assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")


def test_a_blob_that_no_manifest_names_is_not_served(served: Served, root: Path) -> None:
    loose = Blob.of(LICENSE_LAYER, "nobody's")
    (root / "blobs" / loose.digest.file_name).write_bytes(loose.data)
    assert served.get(f"{REPOSITORY}/blobs/{loose.digest}").code == "BLOB_UNKNOWN"


def test_a_blob_of_another_size_is_not_served(served: Served, root: Path) -> None:
    (root / "blobs" / MODEL.weights.digest.file_name).write_bytes(b"short")
    assert served.get(f"{REPOSITORY}/blobs/{MODEL.weights.digest}").code == "BLOB_UNKNOWN"


def test_a_blob_that_is_missing_is_unknown(served: Served, root: Path) -> None:
    (root / "blobs" / MODEL.weights.digest.file_name).unlink()
    assert served.get(f"{REPOSITORY}/blobs/{MODEL.weights.digest}").code == "BLOB_UNKNOWN"


def test_a_model_that_has_just_come_is_served_at_once(served: Served, root: Path) -> None:
    assert served.get(f"{REPOSITORY}/blobs/{MODEL.weights.digest}").status == 200
    assert served.get(f"{REPOSITORY}/blobs/{tiny(3).weights.digest}").status == 404
    keep(root, "tiny:new", tiny(3))
    assert served.get(f"{REPOSITORY}/blobs/{tiny(3).weights.digest}").status == 200


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/library/other/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/library/other/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/library/tiny/manifests/other", 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/tiny/manifests/-bad-", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/library/tiny/manifests/sha256:{'0' * 64}", 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/tiny/manifests/sha256:0", 400, "DIGEST_INVALID"),
        ("/v2/library/tiny/manifests/md5:0", 400, "DIGEST_INVALID"),
        (f"/v2/library/tiny/blobs/sha256:{'0' * 64}", 404, "BLOB_UNKNOWN"),
        (f"/v2/library/tiny/blobs/sha256:{'A' * 64}", 400, "DIGEST_INVALID"),
        ("/v2/library/tiny/blobs/sha256-0", 400, "DIGEST_INVALID"),
        ("/v2/library/tiny/blobs/..%2F..%2Fetc%2Fpasswd", 404, "UNSUPPORTED"),
        ("/v2/../../etc/tiny/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/%2E%2E/tiny/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/lib.rary/tiny/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/library/-tiny/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/library/t%00ny/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/library//manifests/latest", 400, "NAME_INVALID"),
        ("/v2/tiny/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/a/b/c/d/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/library/tiny/manifests/latest?ns=a/b", 400, "NAME_INVALID"),
        ("/v2/library/tiny/manifests/latest?ns=other.example", 404, "NAME_UNKNOWN"),
        ("/v2/library/tiny", 404, "UNSUPPORTED"),
        ("/v2/library/tiny/manifests/", 404, "UNSUPPORTED"),
        ("/v2/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/nothing", 404, "UNSUPPORTED"),
        ("/v2//", 404, "UNSUPPORTED"),
        ("/v2/_catalog?n=x", 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/_catalog?ns=-", 400, "NAME_INVALID"),
        ("/v2/library/tiny/tags/list?n=-1", 400, "PAGINATION_NUMBER_INVALID"),
    ],
)
def test_what_is_not_here_is_refused_in_the_oci_form(
    served: Served, root: Path, path: str, status: int, code: str | None
) -> None:
    answer = served.get(path)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    if code:
        assert answer.code == code


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/v2/", "/v2/library/tiny/blobs/uploads/", "/v2/library/tiny/manifests/latest"])
def test_it_is_read_only(served: Served, root: Path, method: str, path: str) -> None:
    answer = served.ask(method, path)
    assert (answer.status, answer.code, answer.headers["allow"]) == (405, "UNSUPPORTED", "GET, HEAD")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/library/tiny/{}?ns=127.0.0.1:5000",
        "/v2/library/tiny/{}?ns=127.0.0.1%3A5000",
        "/v2/127.0.0.1_5000/library/tiny/{}",
        "/v2/127.0.0.1:5000/library/tiny/{}",
    ],
)
def test_a_model_of_another_host_is_found_in_each_spelling(served: Served, root: Path, path: str) -> None:
    model = tiny(9)
    keep(root, "127.0.0.1:5000/library/tiny", model)
    assert served.get(path.format("manifests/latest")).body == model.manifest
    assert served.get(path.format(f"manifests/{model.digest}")).body == model.manifest
    answer = served.get(path.format(f"blobs/{model.weights.digest}"))
    assert answer.body == model.weights.data
    assert served.get(answer.headers["location"]).body == model.weights.data
    assert served.get(path.format("tags/list")).json["tags"] == ["latest"]


def test_a_host_with_an_underscore_of_its_own_is_found(served: Served) -> None:
    keep(served.puller.store.root, "my_5000/library/tiny", MODEL)
    assert served.get("/v2/my_5000/library/tiny/manifests/latest").body == MODEL.manifest


def test_names_are_found_without_regard_to_case(served: Served) -> None:
    keep(served.puller.store.root, "Meta/Llama:8B", MODEL)
    assert served.get("/v2/meta/llama/manifests/8b").body == MODEL.manifest
    assert served.get("/v2/meta/llama/tags/list").json == {"name": "Meta/Llama", "tags": ["8B"]}
    assert served.get(f"/v2/meta/llama/blobs/{MODEL.weights.digest}").status == 200


def test_the_catalog_lists_the_repositories_of_one_host(served: Served, root: Path) -> None:
    keep(root, "tiny:other", MODEL)
    keep(root, "a/b", MODEL)
    keep(root, "registry.example:5000/c/d", MODEL)
    assert served.get("/v2/_catalog").json == {"repositories": ["a/b", "library/tiny"]}
    assert served.get("/v2/_catalog?ns=registry.example:5000").json == {"repositories": ["c/d"]}
    assert served.get("/v2/_catalog?ns=nobody.example").json == {"repositories": []}


def test_lists_come_in_pages(served: Served) -> None:
    root = served.puller.store.root
    tags = [f"v{number}" for number in range(5)]
    for tag in tags:
        keep(root, f"registry.example/a/b:{tag}", MODEL)
    seen: list[str] = []
    path = "/v2/a/b/tags/list?ns=registry.example&n=2"
    while path:
        answer = served.get(path)
        assert len(answer.json["tags"]) <= 2
        seen += answer.json["tags"]
        link = answer.headers.get("link", "")
        path = urllib.parse.unquote(link.partition("<")[2].partition(">")[0])
    assert seen == tags
    assert served.get("/v2/a/b/tags/list?ns=registry.example&n=0").json["tags"] == []
    assert served.get("/v2/a/b/tags/list?ns=registry.example&last=v3").json["tags"] == ["v4"]


@pytest.mark.parametrize(
    ("host", "setting", "served_there"),
    [
        ("127.0.0.1", None, True),
        ("localhost", None, True),
        ("::1", None, True),
        ("0.0.0.0", None, False),
        ("", None, False),
        ("192.168.1.2", None, False),
        ("0.0.0.0", True, True),
        ("127.0.0.1", False, False),
    ],
)
def test_beyond_loopback_the_operator_has_to_say_so(
    puller: FakePuller, host: str, setting: bool | None, served_there: bool
) -> None:
    settings = Settings(models=puller.store.root, listen=Listen(host, 11434), serve_registry=setting)
    with serving(puller, settings) as served:
        answer = served.get("/v2/")
        assert answer.status == (200 if served_there else 403)
        if not served_there:
            assert answer.code == "DENIED"
            assert "TOWLINE_SERVE_REGISTRY=1" in json.dumps(answer.json)
            assert served.get("/v2/library/tiny/manifests/latest").status == 403
            assert served.get("/").status == 200
