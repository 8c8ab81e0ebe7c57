"""What a service answers: contracts, faults, pages."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deepfake.serving.app import Sources
from deepfake.serving.limits import Limits
from tests.serving.making import Scripted, Served, form, serving, until


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "service") as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "inner").mkdir(parents=True)
    (made / "inner" / "clip.mp4").write_bytes(b"video")
    (tmp_path / "outside.mp4").write_bytes(b"secret")
    (made / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    (made / "within.mp4").symlink_to(made / "inner" / "clip.mp4")
    (made / "folder").symlink_to(tmp_path)
    os.mkfifo(made / "pipe.mp4")
    return made


def test_the_contract_of_an_existing_backend(served: Served) -> None:
    answer = served.send(b"video", to="/api/v1/predict").json
    assert set(answer) == {"predicted_class", "confidence", "output_url", "execution_time"}
    assert (answer["predicted_class"], answer["confidence"], answer["output_url"]) == ("FAKE", 0.8, None)
    assert answer["execution_time"] > 0


def test_without_a_calibration_the_confidence_is_the_score(served: Served) -> None:
    assert served.send(b"raw", to="/api/v1/predict").json["confidence"] == 0.9


def test_our_own_answer_names_the_file_as_it_was_sent_and_nothing_of_the_machine(served: Served) -> None:
    reply = served.send(b"video", name="../../her clip.mp4")
    (result,) = reply.json["results"]
    assert (reply.status, result["path"], result["class"]) == (200, "her clip.mp4", "FAKE")
    assert reply.json["threshold"] == 0.5
    assert str(served.folder) not in reply.body.decode()


def test_several_files_are_answered_together_and_one_that_cannot_be_says_why(served: Served) -> None:
    reply = served.send(b"video", b"no_face", b"video")
    assert reply.status == 200
    results = reply.json["results"]
    assert [one["class"] for one in results] == ["FAKE", None, "FAKE"]
    assert results[1]["reason"]["code"] == "no_face"
    assert "face" in results[1]["reason"]["hint"]


def test_the_older_address_takes_one_file(served: Served) -> None:
    reply = served.send(b"video", b"video", to="/api/v1/predict")
    assert (reply.status, reply.code) == (413, "too_many_files")


@pytest.mark.parametrize("reason", ["no_face", "too_short", "timeout", "crashed"])
@pytest.mark.parametrize("to", ["/v2/predict", "/api/v1/predict"])
def test_a_file_without_an_answer_is_a_fault_with_its_reason(served: Served, reason: str, to: str) -> None:
    reply = served.send(reason.encode(), to=to)
    assert (reply.status, reply.code) == (422, reason)
    told = reply.body.decode()
    assert str(served.folder) not in told
    assert "dataset." not in told
    assert reply.json["error"]["hint"]


def test_a_name_that_is_neither_video_nor_image_is_415(served: Served) -> None:
    reply = served.send(b"video", name="notes.txt")
    assert (reply.status, reply.code) == (415, "unsupported")
    assert served.model.prepared == []


def test_a_file_without_a_suffix_is_known_by_its_first_bytes(served: Served) -> None:
    kinds = [
        served.send(content, name="blob").json["results"][0]["kind"] for content in (b"\x89PNG....", b"....ftypisom")
    ]
    assert kinds == ["image", "video"]


def test_a_bug_is_500_without_a_trace_and_the_service_goes_on(served: Served) -> None:
    reply = served.send(b"break")
    assert (reply.status, reply.code) == (500, "internal")
    assert "secret" not in reply.body.decode()
    assert served.send(b"video").status == 200


def test_numbers_that_json_does_not_have_become_null(served: Served) -> None:
    assert served.send(b"nan").json["results"][0]["score"] is None


def test_an_overlay_can_be_fetched_and_seeked_in(served: Served) -> None:
    url = served.send(b"video", to="/api/v1/predict?overlay=true").json["output_url"]
    assert served.get(url).body == b"0123456789"
    part = served.get(url, Range="bytes=2-4")
    assert (part.status, part.body) == (206, b"234")
    assert served.get(url.replace("/outputs/", "/outputs/..%2f")).status == 404


@pytest.mark.parametrize("how", ["query", "field"])
def test_an_overlay_that_cannot_be_made_takes_no_answer_away(served: Served, how: str) -> None:
    if how == "query":
        reply = served.send(b"unpainted", to="/v2/predict?overlay=1")
    else:
        reply = served.send(b"unpainted", overlay="true")
    (result,) = reply.json["results"]
    assert result["class"] == "FAKE"
    assert result["overlay"] == {"url": None, "reason": "nothing to paint", "note": None}


def test_an_overlay_without_a_map_says_why(tmp_path: Path) -> None:
    model = Scripted()
    with serving(tmp_path / "service", model) as served:
        (with_map,) = served.send(b"video", overlay="true").json["results"]
        model.note = "No map is painted: it takes torch"
        (without,) = served.send(b"video", overlay="true").json["results"]
    assert with_map["overlay"]["note"] is None
    assert without["overlay"]["note"] == "No map is painted: it takes torch"
    assert without["overlay"]["url"]


def test_a_detector_without_overlays_says_so_before_any_work(tmp_path: Path) -> None:
    with serving(tmp_path / "service", Scripted(overlays=False)) as served:
        reply = served.send(b"video", overlay="true")
        assert (reply.status, reply.code) == (422, "no_overlays")
        assert served.model.prepared == []


def test_overlays_go_after_a_while(tmp_path: Path) -> None:
    with serving(tmp_path / "service", limits=Limits(workers=1, kept_seconds=0.2)) as served:
        url = served.send(b"video", to="/api/v1/predict?overlay=true").json["output_url"]
        assert until(lambda: served.get(url).status == 404)
        assert list((served.folder / "overlays").iterdir()) == []


WRONG = [
    (b"", "bad_json"),
    (b"{", "bad_json"),
    (b"\xff\xfe", "bad_json"),
    (b"[" * 60_000, "bad_json"),
    ([], "bad_field"),
    ("text", "bad_field"),
    (None, "bad_field"),
    ({}, "nothing_named"),
    ({"path": "a", "url": "b"}, "nothing_named"),
    ({"path": 3}, "bad_field"),
    ({"path": ""}, "bad_field"),
    ({"path": ["a"]}, "bad_field"),
    ({"url": {"a": 1}}, "bad_field"),
    ({"path": "a", "overlay": "yes"}, "bad_field"),
    ({"file": "a"}, "unknown_field"),
]


@pytest.mark.parametrize(("body", "code"), WRONG, ids=[str(body)[:20] for body, _ in WRONG])
def test_json_of_the_wrong_shape_is_400(served: Served, body: object, code: str) -> None:
    reply = served.tell(body)
    assert (reply.status, reply.code) == (400, code)


def test_a_text_in_place_of_a_file_says_how_files_are_sent(served: Served) -> None:
    body, kind = form([("file", "", b"clip.mp4")])
    reply = served.ask("POST", "/v2/predict", body.replace(b'; filename=""', b""), {"Content-Type": kind})
    assert (reply.status, reply.code) == (400, "no_file")
    assert "-F file=@clip.mp4" in reply.body.decode()


@pytest.mark.parametrize("to", ["/", "/health", "/ready", "/docs", "/metrics", "/v2/model"])
def test_head_says_what_get_says_without_a_body(served: Served, to: str) -> None:
    reply, whole = served.ask("HEAD", to), served.ask("GET", to)
    assert (reply.status, reply.body) == (whole.status, b"") == (200, b"")


def test_head_of_what_is_only_posted_to_is_405(served: Served) -> None:
    assert served.ask("HEAD", "/v2/predict").status == 405


def test_huge_json_is_413(served: Served) -> None:
    reply = served.tell(json.dumps({"path": "x" * 100_000}).encode())
    assert (reply.status, reply.code) == (413, "upload_too_large")


@pytest.mark.parametrize("kind", ["", "text/plain", "video/mp4", "multipart/mixed; boundary=x", "application/xml"])
def test_another_type_of_body_is_415(served: Served, kind: str) -> None:
    reply = served.ask("POST", "/v2/predict", b"x", {"Content-Type": kind} if kind else {})
    assert (reply.status, reply.code) == (415, "unsupported_body")


def test_paths_and_addresses_are_not_taken_unless_allowed(served: Served) -> None:
    assert (served.tell({"path": "a.mp4"}).status, served.tell({"path": "a.mp4"}).code) == (403, "paths_refused")
    reply = served.tell({"url": "http://93.184.216.34/a.mp4"})
    assert (reply.status, reply.code) == (403, "urls_refused")


def test_files_below_the_root_are_answered_for_and_stay(tmp_path: Path, root: Path) -> None:
    with serving(tmp_path / "service", sources=Sources(root)) as served:
        for path in ("inner/clip.mp4", "./inner//clip.mp4", "within.mp4"):
            reply = served.tell({"path": path})
            assert reply.status == 200, reply.body
        assert reply.json["results"][0]["path"] == "within.mp4"
    assert (root / "inner" / "clip.mp4").read_bytes() == b"video"


LEADING_OUT = {
    "../outside.mp4": 400,
    "inner/../../outside.mp4": 400,
    "/etc/passwd": 400,
    "..": 400,
    "inner\\..\\..\\outside.mp4": 400,
    "a\0b": 400,
    "x" * 5000: 400,
    "link.mp4": 404,
    "folder/outside.mp4": 404,
    "pipe.mp4": 404,
    "inner": 404,
    "nothing.mp4": 404,
    "inner/clip.mp4/x": 404,
    "~/x.mp4": 404,
}


@pytest.mark.parametrize("path", LEADING_OUT, ids=lambda path: repr(path[:24]))
def test_paths_that_lead_out_of_the_root_are_refused(tmp_path: Path, root: Path, path: str) -> None:
    with serving(tmp_path / "service", sources=Sources(root)) as served:
        reply = served.tell({"path": path})
        assert reply.status == LEADING_OUT[path]
        assert str(tmp_path) not in reply.body.decode()
        assert served.model.prepared == []


def test_a_page_of_another_site_gets_nothing(served: Served) -> None:
    body, kind = form([("file", "clip.mp4", b"video")])
    headers = {"Content-Type": kind, "Sec-Fetch-Site": "cross-site"}
    assert served.ask("POST", "/v2/predict", body, headers).status == 403


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/none", 404), ("GET", "/v2/predict", 405)])
def test_other_addresses_are_told_in_json_too(served: Served, method: str, path: str, status: int) -> None:
    reply = served.ask(method, path)
    assert reply.status == status
    assert reply.json["error"]["hint"]


def test_states(served: Served) -> None:
    assert served.get("/health").json == {"status": "alive"}
    assert served.get("/ready").json["status"] == "ready"
    limits = served.get("/v2/model").json["limits"]
    assert limits["upload_bytes"] == Limits().upload
    assert limits["overlays"] is True
    served.app.state.desk.stopping = True
    reply = served.get("/ready")
    assert (reply.status, reply.code) == (503, "not_ready")
    assert served.send(b"video").status == 503
    assert served.get("/health").status == 200


def test_metrics_count_requests_by_route_and_files_by_outcome(served: Served) -> None:
    served.send(b"video")
    served.send(b"no_face")
    served.get("/invented/by/a/client")
    assert served.metric('deepfake_requests_total{route="/v2/predict",status="200"}') == 1
    assert served.metric('deepfake_requests_total{route="/v2/predict",status="422"}') == 1
    assert served.metric('deepfake_files_total{outcome="FAKE"}') == 1
    assert served.metric('deepfake_files_total{outcome="no_face"}') == 1
    assert served.metric("deepfake_files_in_service") == 0
    assert "invented" not in served.get("/metrics").body.decode()


def test_pages_load_nothing_from_elsewhere_and_run_only_their_own_script(served: Served) -> None:
    for path in ("/", "/docs"):
        reply = served.get(path)
        assert reply.status == 200
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        text = reply.body.decode()
        assert "http://" not in text.replace("http://127.0.0.1", "")
        assert "https://" not in text
        assert "style=" not in text
        assert "onclick" not in text
    assert served.get("/page.js").headers["content-type"].startswith("text/javascript")


def test_the_interface_is_described(served: Served) -> None:
    described = served.get("/openapi.json").json
    body = described["paths"]["/v2/predict"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/json"}
    assert {"400", "404", "408", "413", "415", "422", "503"} <= set(
        described["paths"]["/api/v1/predict"]["post"]["responses"]
    )
    page = served.get("/docs").body.decode()
    for path in described["paths"]:
        assert path in page


def test_beyond_the_queue_is_503_with_when_to_come_again_and_those_inside_are_answered(tmp_path: Path) -> None:
    limits = Limits(workers=1, queue=2)
    with serving(tmp_path / "service", limits=limits) as served, ThreadPoolExecutor(3) as pool:
        inside = [pool.submit(served.send, b"hold") for _ in range(3)]
        assert until(lambda: served.metric("deepfake_files_in_service") == 3)
        # A body of some megabytes is refused just as well, rather than by a broken connection.
        for size in (10, 4 << 20):
            reply = served.send(b"x" * size)
            assert (reply.status, reply.code) == (503, "busy")
            assert 1 <= int(reply.headers["retry-after"]) <= 60
        served.model.let_go.set()
        assert [one.result().status for one in inside] == [200, 200, 200]
        assert served.send(b"video").status == 200


def test_each_file_of_a_request_takes_a_place(tmp_path: Path) -> None:
    with serving(tmp_path / "service", limits=Limits(workers=1, queue=1)) as served:
        assert served.send(b"video", b"video").status == 200
        assert served.send(b"video", b"video", b"video").status == 503
        assert served.send(b"video", b"video").status == 200
        assert served.metric("deepfake_files_in_service") == 0


def test_nothing_is_left_of_requests(served: Served) -> None:
    for content in (b"video", b"no_face", b"break"):
        served.send(content)
    served.tell({"path": "x"})
    assert until(lambda: not served.leftovers())
