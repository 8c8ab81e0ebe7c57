"""The order of work: batches, clients that leave, time limits, failures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deepfake.serving.limits import Limits
from tests.serving.making import Scripted, form, serving, until


def test_what_waits_is_scored_together(tmp_path: Path) -> None:
    model = Scripted()
    with serving(tmp_path / "service", model, Limits(workers=8, batch=4)) as served, ThreadPoolExecutor(7) as pool:
        model.scoring.clear()
        asked = [pool.submit(served.send, b"video") for _ in range(7)]
        assert until(lambda: len(model.prepared) == 7)
        model.scoring.set()
        assert all(one.result().status == 200 for one in asked)
    assert sum(model.batches) == 7
    assert max(model.batches) == 4
    assert len(model.batches) <= 4


def test_one_that_breaks_scoring_takes_no_other_with_it(tmp_path: Path) -> None:
    model = Scripted()
    with serving(tmp_path / "service", model, Limits(workers=8)) as served, ThreadPoolExecutor(4) as pool:
        model.scoring.clear()
        first = pool.submit(served.send, b"video")
        assert until(lambda: len(model.prepared) == 1)
        asked = [pool.submit(served.send, content) for content in (b"video", b"break", b"video")]
        assert until(lambda: len(model.prepared) == 4)
        model.scoring.set()
        assert first.result().status == 200
        assert [one.result().status for one in asked] == [200, 500, 200]


def test_the_work_of_a_client_that_left_is_dropped(tmp_path: Path) -> None:
    model = Scripted()
    with serving(tmp_path / "service", model, Limits(workers=2, queue=0)) as served:
        body, kind = form([("file", "clip.mp4", b"hold")])
        text = f"POST /v2/predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        left = [served.raw(text.encode() + body) for _ in range(2)]
        assert until(lambda: model.holding == 2)
        assert served.send(b"video").status == 503
        for connection in left:
            connection.close()
        assert until(lambda: model.holding == 0)
        assert until(lambda: served.metric("deepfake_clients_gone_total") == 2)
        assert served.send(b"video").status == 200
        assert model.prepared == ["clip.mp4"]
        assert until(lambda: not served.leftovers())


def test_a_client_that_leaves_before_scoring_is_not_scored(tmp_path: Path) -> None:
    model = Scripted()
    with serving(tmp_path / "service", model, Limits(workers=4)) as served, ThreadPoolExecutor(1) as pool:
        model.scoring.clear()
        first = pool.submit(served.send, b"video")
        assert until(lambda: len(model.prepared) == 1)
        body, kind = form([("file", "gone.mp4", b"video")])
        text = f"POST /v2/predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection = served.raw(text.encode() + body)
        assert until(lambda: len(model.prepared) == 2)
        connection.close()
        assert until(lambda: served.metric("deepfake_clients_gone_total") == 1)
        model.scoring.set()
        assert first.result().status == 200
        assert served.send(b"video").status == 200
    assert sum(model.batches) == 2


def test_a_request_that_takes_too_long_is_told_when_to_come_again(tmp_path: Path) -> None:
    with serving(tmp_path / "service", limits=Limits(workers=1, seconds=0.2)) as served:
        reply = served.send(b"hold")
        assert (reply.status, reply.code) == (503, "busy")
        assert reply.headers["retry-after"]
        assert served.model.holding == 0
        assert served.send(b"video").status == 200


@pytest.mark.parametrize("count", [1, 3])
def test_running_requests_end_before_the_service_does(tmp_path: Path, count: int) -> None:
    model = Scripted()
    with ThreadPoolExecutor(count) as pool, serving(tmp_path / "service", model, Limits(workers=4)) as served:
        asked = [pool.submit(served.send, b"hold") for _ in range(count)]
        assert until(lambda: model.holding == count)
        served.server.should_exit = True
        assert not any(one.done() for one in asked)
        model.let_go.set()
        assert [one.result().status for one in asked] == [200] * count


def test_what_does_not_end_is_cut_off_when_the_service_stops(tmp_path: Path) -> None:
    model = Scripted()
    with serving(tmp_path / "service", model, Limits(workers=1, stopping=1)) as served, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(served.send, b"hold")
        assert until(lambda: model.holding == 1)
        served.server.should_exit = True
        assert until(lambda: model.holding == 0)
        assert asked.exception(30) is not None or asked.result().status >= 500
