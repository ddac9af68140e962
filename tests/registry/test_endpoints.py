"""The transport rule: HTTPS always, but for loopback and for what the operator names as plain."""

from __future__ import annotations

from pathlib import Path

import pytest

from towline.registry.access import origin
from towline.registry.endpoints import Endpoint, Transport, endpoints, is_loopback, transport
from towline.registry.response import retry_after
from towline.settings import Mirror, Settings

STRICT = Transport(frozenset())


def configured(**changes: object) -> Settings:
    return Settings(models=Path("/nowhere"), **changes)  # type: ignore[arg-type]


class TestTransport:
    @pytest.mark.parametrize(
        "url",
        [
            "https://registry.example/v2/",
            "https://10.0.0.1/",
            "http://127.0.0.1:5000/v2/",
            "http://127.1.2.3/",
            "http://localhost:5000/",
            "http://LOCALHOST/",
            "http://some.localhost/",
            "http://[::1]:5000/",
        ],
    )
    def test_https_and_loopback_are_allowed(self, url: str) -> None:
        assert STRICT.allows(url)

    @pytest.mark.parametrize(
        "url",
        [
            "http://registry.example/",
            "http://10.0.0.1/",
            "http://127.0.0.1.example/",
            "http://localhost.example/",
            "http://notlocalhost/",
            "http://127.0.0.1@registry.example/",
            "http://user@127.0.0.1/",
            "https://user:word@registry.example/",
            "http://0.0.0.0/",
            "http://[::]/",
            "http://[::2]/",
            "http://2130706433/",
            "http://127.1/",
            "ftp://127.0.0.1/",
            "file:///etc/passwd",
            "//registry.example/",
            "/v2/",
            "",
            "http://",
            "https://",
            "http://[::1/",
            "https://registry.example:99999/",
            "https://registry.example:x/",
        ],
    )
    def test_anything_else_is_not(self, url: str) -> None:
        assert not STRICT.allows(url)

    @pytest.mark.parametrize(
        ("plain", "url"),
        [
            ("registry.example", "http://registry.example/"),
            ("registry.example", "http://registry.example:5000/"),
            ("registry.example", "http://REGISTRY.example/"),
            ("registry.example:5000", "http://registry.example:5000/"),
            ("registry.example:80", "http://registry.example/"),
        ],
    )
    def test_a_host_that_is_named_as_plain_is_allowed(self, plain: str, url: str) -> None:
        assert Transport(frozenset([plain])).allows(url)

    @pytest.mark.parametrize(
        ("plain", "url"),
        [
            ("registry.example:5000", "http://registry.example/"),
            ("registry.example:5000", "http://registry.example:5001/"),
            ("registry.example", "http://sub.registry.example/"),
            ("registry.example", "http://other.example/"),
        ],
    )
    def test_naming_one_host_names_no_other(self, plain: str, url: str) -> None:
        assert not Transport(frozenset([plain])).allows(url)

    def test_https_never_falls_back_to_http_not_even_to_loopback(self) -> None:
        assert not STRICT.allows("http://127.0.0.1/", after="https://registry.example/")

    def test_https_never_falls_back_to_a_host_that_is_named_as_plain(self) -> None:
        assert not Transport(frozenset(["a"])).allows("http://a/", after="https://registry.example/")

    def test_http_may_go_on_to_https(self) -> None:
        assert STRICT.allows("https://registry.example/", after="http://127.0.0.1/")

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.255.255.254", "::1", "[::1]", "localhost", "a.localhost"])
    def test_a_name_of_this_machine_is_loopback(self, host: str) -> None:
        assert is_loopback(host)

    @pytest.mark.parametrize("host", ["", "localhost.", "0.0.0.0", "128.0.0.1", "::", "example", "127.0.0"])
    def test_no_other_is(self, host: str) -> None:
        assert not is_loopback(host)


class TestEndpoints:
    def test_a_host_without_mirrors_is_its_own_endpoint_over_https(self) -> None:
        assert endpoints("registry.ollama.ai", configured()) == (Endpoint("https://registry.ollama.ai"),)

    @pytest.mark.parametrize(("host", "base"), [("127.0.0.1:5000", "http"), ("localhost", "http"), ("a:5000", "https")])
    def test_loopback_is_plain(self, host: str, base: str) -> None:
        assert endpoints(host, configured())[0].base == f"{base}://{host}"

    def test_a_host_that_is_named_as_plain_is_plain_whatever_its_case(self) -> None:
        assert endpoints("Host.Example:5000", configured(plain_http=("host.example:5000",)))[0].base.startswith("http:")

    def test_mirrors_replace_the_host_in_their_order(self) -> None:
        mirrors = (Mirror("a", "https://one"), Mirror("b", "https://no"), Mirror("a", "http://two"))
        found = endpoints("A", configured(mirrors=mirrors))
        assert [each.base for each in found] == ["https://one", "http://two"]

    def test_a_mirror_is_told_for_whom_it_answers(self) -> None:
        endpoint = endpoints("a:5000", configured(mirrors=(Mirror("a:5000", "https://one/base"),)))[0]
        assert (
            endpoint.url("library/x", "manifests", "latest")
            == "https://one/base/v2/library/x/manifests/latest?ns=a:5000"
        )

    def test_the_host_among_its_mirrors_is_asked_as_itself(self) -> None:
        endpoint = endpoints("a", configured(mirrors=(Mirror("a", "https://a"),)))[0]
        assert endpoint.url("library/x", "blobs", "y") == "https://a/v2/library/x/blobs/y"

    def test_a_mirror_that_is_written_http_is_thereby_named_as_plain(self) -> None:
        rule = transport(configured(mirrors=(Mirror("a", "http://Mirror.example:5000"),)))
        assert rule.allows("http://mirror.example:5000/v2/")
        assert not rule.allows("http://mirror.example:5001/v2/")
        assert not rule.allows("http://a/v2/")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a/x", "https://A:443/y", True),
        ("http://a/x", "http://a:80/y?z", True),
        ("http://a/x", "https://a/x", False),
        ("https://a:1/x", "https://a:2/x", False),
        ("https://a/x", "https://b/x", False),
    ],
)
def test_addresses_of_one_server_have_one_origin(one: str, other: str, same: bool) -> None:
    assert (origin(one) == origin(other)) is same


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("1", 1.0),
        (" 120 ", 120.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 9015 07:28:00 GMT", 86400.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("9" * 500, 86400.0),
    ],
)
def test_retry_after_is_seconds_or_nothing(text: str | None, seconds: float | None) -> None:
    assert retry_after(text) == seconds
