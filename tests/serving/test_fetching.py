"""Files from addresses: which are fetched from, and what comes back from servers that do not mean well."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deepfake.serving import fetching
from deepfake.serving.app import Sources
from deepfake.serving.faults import Fault
from deepfake.serving.fetching import fetch, is_public
from deepfake.serving.limits import Limits
from tests.serving.making import serving

LIMITS = Limits(workers=1, upload=100_000, patience=1.5, slowest=1e9)
PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",  # noqa: S104
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]


def everything(address: Any) -> bool:
    return True


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_of_machines_and_networks_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111"])
def test_public_ones_are(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


class Site:
    """A server whose answer to each path is written down."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.drip = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            text = connection.recv(65536).decode("latin-1")
            self.asked.append(text)
            answer = self.answers.get(text.split()[1], b"HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n")
            try:
                if not self.drip:
                    connection.sendall(answer)
                    return
                for byte in answer:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.2)
            except OSError:
                return

    def close(self) -> None:
        self._socket.close()


def ok(body: bytes, length: int | None = None) -> bytes:
    told = len(body) if length is None else length
    return f"HTTP/1.1 200 OK\r\nContent-Length: {told}\r\n\r\n".encode() + body


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def test_a_file_is_fetched_and_named_by_its_address(site: Site, tmp_path: Path) -> None:
    site.answers["/a/my%20clip.mp4?x=1"] = ok(b"video")
    upload = fetch(f"http://127.0.0.1:{site.port}/a/my%20clip.mp4?x=1", tmp_path, LIMITS, everything)
    assert (upload.name, upload.size, upload.path.read_bytes()) == ("my clip.mp4", 5, b"video")


def faulted(call: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(Fault) as caught:
        call()
    return caught.value.status, caught.value.code


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0x7f.1", "2130706433", "0", "127.1"])
def test_this_machine_is_never_asked_whatever_it_is_called(site: Site, tmp_path: Path, host: str) -> None:
    site.answers["/"] = ok(b"secret")
    status, code = faulted(lambda: fetch(f"http://{host}:{site.port}/", tmp_path, LIMITS))
    assert (status, code) in {(403, "address_refused"), (422, "not_fetched")}
    assert site.asked == []


def test_a_name_with_one_private_address_among_public_ones_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(socket.AF_INET, 0, 0, "", (address, 80)) for address in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *_, **__: found)
    assert faulted(lambda: fetch("http://rebound.example/", tmp_path, LIMITS)) == (403, "address_refused")


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answers["/clip.mp4"] = ok(b"video")
    asked: list[str] = []
    usual = socket.getaddrinfo

    def once(host: str, *rest: Any, **named: Any) -> Any:
        if host != "rebound.example":
            return usual(host, *rest, **named)
        asked.append(host)
        return [(socket.AF_INET, 0, 0, "", ("127.0.0.1", site.port))]

    monkeypatch.setattr(fetching.socket, "getaddrinfo", once)
    fetch(f"http://rebound.example:{site.port}/clip.mp4", tmp_path, LIMITS, everything)
    assert asked == ["rebound.example"]
    assert f"Host: rebound.example:{site.port}" in site.asked[0]


def test_a_redirect_to_a_private_address_is_refused(site: Site, tmp_path: Path) -> None:
    other = Site()
    other.answers["/"] = ok(b"secret")
    site.answers["/"] = f"HTTP/1.1 302 F\r\nLocation: http://127.0.0.2:{other.port}/\r\n\r\n".encode()

    def first_only(address: Any) -> bool:
        return str(address) == "127.0.0.1"

    status = faulted(lambda: fetch(f"http://127.0.0.1:{site.port}/", tmp_path, LIMITS, first_only))
    other.close()
    assert status == (403, "address_refused")
    assert other.asked == []


def test_a_redirect_to_another_scheme_is_refused(site: Site, tmp_path: Path) -> None:
    site.answers["/"] = b"HTTP/1.1 302 F\r\nLocation: file:///etc/passwd\r\n\r\n"
    assert faulted(lambda: fetch(f"http://127.0.0.1:{site.port}/", tmp_path, LIMITS, everything)) == (400, "bad_url")


def test_a_redirect_is_followed_and_one_in_a_circle_is_not(site: Site, tmp_path: Path) -> None:
    site.answers["/a"] = b"HTTP/1.1 301 F\r\nLocation: /b.mp4\r\n\r\n"
    site.answers["/b.mp4"] = ok(b"video")
    assert fetch(f"http://127.0.0.1:{site.port}/a", tmp_path, LIMITS, everything).name == "b.mp4"
    site.answers["/b.mp4"] = b"HTTP/1.1 301 F\r\nLocation: /a\r\n\r\n"
    status = faulted(lambda: fetch(f"http://127.0.0.1:{site.port}/a", tmp_path, LIMITS, everything))
    assert status == (422, "not_fetched")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/a.mp4",
        "gopher://127.0.0.1/",
        "http://",
        "http:///a.mp4",
        "//example.com/a",
        "http://user:word@example.com/a.mp4",
        "http://example.com:99999/",
        "http://exa mple.com/",
        "http://example.com/\r\nX: y",
        "http://[::1/",
        "http://" + "x" * 3000,
        "видео",
    ],
)
def test_what_is_no_address_is_400(tmp_path: Path, url: str) -> None:
    assert faulted(lambda: fetch(url, tmp_path, LIMITS)) == (400, "bad_url")


@pytest.mark.parametrize("told", [None, 200_000], ids=["unsaid", "said"])
def test_a_file_that_is_too_large_is_413(site: Site, tmp_path: Path, told: int | None) -> None:
    head = b"" if told is None else f"Content-Length: {told}\r\n".encode()
    site.answers["/"] = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + b"x" * 200_000
    status = faulted(lambda: fetch(f"http://127.0.0.1:{site.port}/", tmp_path, LIMITS, everything))
    assert status == (413, "upload_too_large")


def test_a_file_that_is_cut_short_is_told(site: Site, tmp_path: Path) -> None:
    site.answers["/"] = ok(b"half", length=100)
    status = faulted(lambda: fetch(f"http://127.0.0.1:{site.port}/", tmp_path, LIMITS, everything))
    assert status == (422, "not_fetched")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 500 X\r\n\r\n", b"nonsense\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 99_999]
)
def test_servers_that_make_no_sense_are_told(site: Site, tmp_path: Path, answer: bytes) -> None:
    site.answers["/"] = answer
    status = faulted(lambda: fetch(f"http://127.0.0.1:{site.port}/", tmp_path, LIMITS, everything))
    assert status == (422, "not_fetched")


def test_a_server_that_drips_is_left_in_time(site: Site, tmp_path: Path) -> None:
    site.drip = True
    site.answers["/"] = ok(b"x" * 1000)
    began = time.monotonic()
    status = faulted(lambda: fetch(f"http://127.0.0.1:{site.port}/", tmp_path, LIMITS, everything))
    assert status == (422, "not_fetched")
    assert time.monotonic() - began < 5


def test_a_service_that_may_fetch_still_fetches_nothing_private(site: Site, tmp_path: Path) -> None:
    with serving(tmp_path / "service", sources=Sources(urls=True)) as served:
        reply = served.tell({"url": f"http://127.0.0.1:{site.port}/clip.mp4"})
        assert (reply.status, reply.code) == (403, "address_refused")
        assert site.asked == []
