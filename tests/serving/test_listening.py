"""A port, and connections on which nothing is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.errors import UserError
from deepfake.serving.limits import Limits
from deepfake.serving.listening import address_of, listen
from tests.serving.making import serving


def test_a_port_that_is_taken_is_told() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on port {port}"):
            listen("127.0.0.1", port)
    listen("127.0.0.1", port).close()


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99_999), ("127.0.0.1", -1), ("no.such.host.invalid", 0)])
def test_an_address_that_there_is_not_is_told(host: str, port: int) -> None:
    with pytest.raises(UserError, match="cannot listen"):
        listen(host, port)


def test_the_address_is_one_that_a_browser_takes() -> None:
    with listen("0.0.0.0", 0) as bound:  # noqa: S104
        assert address_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize("said", [b"", b"POST /v2/predict HTTP/1.1\r\nHost:"])
def test_a_connection_whose_headers_do_not_come_is_closed(tmp_path: Path, said: bytes) -> None:
    with serving(tmp_path / "service", limits=Limits(workers=1, patience=0.5)) as served:
        with served.raw(said) as connection:
            connection.settimeout(10)
            assert connection.recv(100) == b""
        assert served.get("/health").status == 200


def test_one_on_which_more_is_asked_stays_open(tmp_path: Path) -> None:
    with serving(tmp_path / "service", limits=Limits(workers=1, patience=0.5)) as served:
        asked = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        with served.raw() as connection:
            connection.settimeout(10)
            for _ in range(2):
                connection.sendall(asked)
                got = b""
                while b"alive" not in got:
                    data = connection.recv(65536)
                    assert data
                    got += data
                assert b" 200 " in got


@pytest.mark.parametrize("said", [b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_no_http_is_refused(tmp_path: Path, said: bytes) -> None:
    with serving(tmp_path / "service", limits=Limits(workers=1, patience=1)) as served:
        with served.raw(said) as connection:
            connection.settimeout(10)
            connection.recv(65536)
        assert served.get("/health").status == 200
