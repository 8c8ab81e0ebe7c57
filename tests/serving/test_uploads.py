"""Bodies that come slowly, broken, endless or not at all, over real connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepfake.serving.limits import Limits
from deepfake.serving.uploads import safe_name
from tests.serving.making import Served, form, serving, until

SMALL = Limits(workers=2, upload=100_000, text=16_384, patience=0.6, slowest=1e9)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "service", limits=SMALL) as made:
        yield made
        # Whatever came, the next request is answered and nothing lies about.
        assert made.send(b"video").status == 200
        assert until(lambda: not made.leftovers())
        assert until(lambda: made.metric("deepfake_files_in_service") == 0)


def head(length: int | None, kind: str = "multipart/form-data; boundary=b", extra: str = "") -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST /v2/predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n{size}\r\n{extra}\r\n".encode()


PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="clip.mp4"\r\n\r\n'
END = b"\r\n--b--\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def reply(connection: socket.socket) -> bytes:
    """All that comes until the other side closes or falls silent."""
    connection.settimeout(5)
    got = b""
    try:
        while data := connection.recv(65536):
            got += data
            if b"}}" in got or b"execution_time" in got:
                break
    except (TimeoutError, ConnectionResetError):
        pass
    return got


def test_an_upload_that_is_cut_in_the_middle_leaves_nothing(served: Served) -> None:
    connection = served.raw(head(50_000) + PART + b"x" * 10_000)
    assert until(served.leftovers)
    connection.close()
    assert until(lambda: not served.leftovers())
    assert served.model.prepared == []
    assert until(lambda: served.metric("deepfake_clients_gone_total") == 1)


def test_an_upload_that_crawls_is_given_up(served: Served) -> None:
    with served.raw(head(50_000) + PART) as connection:
        got = reply(connection)
    assert b" 408 " in got.partition(b"\r\n")[0]
    assert b"too_slow" in got


def test_a_form_that_ends_early_is_400(served: Served) -> None:
    for body in (PART + b"x" * 100, PART, b"--b\r\n", b"", b"nonsense", b"--b--\r\n"):
        with served.raw(head(len(body)) + body) as connection:
            got = reply(connection)
        assert b" 400 " in got.partition(b"\r\n")[0], (body, got)


@pytest.mark.parametrize("told", [True, False], ids=["with its length", "in chunks"])
def test_an_upload_past_the_limit_is_413(served: Served, told: bool) -> None:
    body = PART + b"x" * 150_000 + END
    sent = head(len(body)) + body if told else head(None) + chunk(body) + b"0\r\n\r\n"
    with served.raw(sent) as connection:
        got = reply(connection)
    assert b" 413 " in got.partition(b"\r\n")[0]
    assert b"upload_too_large" in got
    assert served.model.prepared == []


def test_a_limit_that_is_told_is_refused_before_the_body(served: Served) -> None:
    with served.raw(head(10**9, extra="Expect: 100-continue\r\n")) as connection:
        got = reply(connection)
    assert b" 413 " in got.partition(b"\r\n")[0]
    assert b"100 Continue" not in got


def test_chunks_make_a_whole_file(served: Served) -> None:
    body = PART + b"video" + END
    pieces = b"".join(chunk(body[at : at + 7]) for at in range(0, len(body), 7))
    with served.raw(head(None) + pieces + b"0\r\n\r\n") as connection:
        got = reply(connection)
    assert b" 200 " in got.partition(b"\r\n")[0]


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", "99999999999999999999999"])
def test_a_length_that_is_none_is_refused(served: Served, length: str) -> None:
    text = f"POST /v2/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    with served.raw(text.encode()) as connection:
        got = reply(connection)
    assert b" 400 " in got.partition(b"\r\n")[0] or b" 413 " in got.partition(b"\r\n")[0]


@pytest.mark.parametrize("kind", ["multipart/form-data", f"multipart/form-data; boundary={'x' * 300}"])
def test_a_form_without_a_boundary_is_400(served: Served, kind: str) -> None:
    with served.raw(head(10, kind) + b"x" * 10) as connection:
        assert b"bad_form" in reply(connection)


def test_headers_and_fields_without_end_are_refused(served: Served) -> None:
    many = b"".join(b'--b\r\nContent-Disposition: form-data; name="overlay"\r\n\r\n\r\n' for _ in range(200))
    long = b"--b\r\nX: " + b"y" * 60_000
    field = b'--b\r\nContent-Disposition: form-data; name="overlay"\r\n\r\n' + b"y" * 50_000
    for body in (many, long, field):
        with served.raw(head(len(body)) + body) as connection:
            status = reply(connection).partition(b"\r\n")[0]
        assert b" 413 " in status or b" 400 " in status


@pytest.mark.parametrize("fields", [{"other": "x"}, {"overlay": "perhaps"}])
def test_fields_that_mean_nothing_are_400(served: Served, fields: dict[str, str]) -> None:
    assert served.send(b"video", **fields).status == 400


def test_a_form_without_a_file_is_400(served: Served) -> None:
    reply = served.send(overlay="true")
    assert (reply.status, reply.code) == (400, "no_file")


def test_a_file_under_another_name_is_400(served: Served) -> None:
    body, kind = form([("video", "clip.mp4", b"video")])
    reply = served.ask("POST", "/v2/predict", body, {"Content-Type": kind})
    assert (reply.status, reply.code) == (400, "unknown_field")


def test_too_many_files_are_413(served: Served) -> None:
    reply = served.send(*[b"video"] * 9)
    assert (reply.status, reply.code) == (413, "too_many_files")


NAMES = {
    "../../etc/passwd.mp4": "passwd.mp4",
    "C:\\Users\\her\\clip.mp4": "clip.mp4",
    "a\x1b[31m\x07.mp4": "a%1B[31m%07.mp4",
    "a\u202egpj.mp4": "a%E2%80%AEgpj.mp4",
    "": "upload",
    "..": "upload",
    "/": "upload",
    "видео.mp4": "видео.mp4",
    "a\nb.mp4": "a b.mp4",
    "x" * 5000 + ".mp4": "x" * 196 + ".mp4",
    "<script>.mp4": "<script>.mp4",
}


@pytest.mark.parametrize("told", NAMES, ids=lambda told: repr(told[:20]))
def test_names_are_made_harmless(told: str) -> None:
    assert safe_name(told) == NAMES[told]


@pytest.mark.parametrize("told", ["../../x.mp4", "x" * 5000 + ".mp4", "видео.mp4", "a\x1b.mp4", '"quoted.mp4'])
def test_a_file_is_answered_for_whatever_it_is_called(served: Served, told: str) -> None:
    body, kind = form([("file", told, b"video")])
    reply = served.ask("POST", "/v2/predict", body, {"Content-Type": kind})
    assert reply.status == 200
    assert len(reply.json["results"][0]["path"]) <= 200
