"""``deepfake serve`` under load: many clients at once, against one at a time; its memory; hostile files.

    python -m benchmarks.serve

Needs no data and no network; takes a quarter of an hour. A small detector of faces' crops (efficientnet_lite0 without
weights, GRU, 8 frames of 96 pixels) is trained for an epoch on the demo, since only the work counts. Service, workers
and clients, which are threads of this process, share two cores. Throughput is measured in turns: alone, together.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.measure import machine, report, row

CLIENTS, SECONDS, QUEUE, ROUNDS = 50, 60.0, 16, 3
REQUESTS, HOSTILE = 2000, 200
_TRAIN = (
    *("demo.people=12", "demo.seconds=1", "demo.size=96", "dataset.size=96", "dataset.frames=8", "dataset.clips=1"),
    *("model=cnn_gru", "backbone=efficientnet_lite0", "backbone.pretrained=false", "trainer.epochs=1", "name=served"),
    *("trainer.batch_size=8", "tracking.log_model=false", "tracking.system_metrics=false"),
)


@dataclass
class Told:
    """What clients were told, by status, and the seconds of those who got an answer."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    errors: int = 0
    without_retry: int = 0


class Client:
    """One connection at a time to a service."""

    def __init__(self, port: int) -> None:
        self._port = port

    def send(self, body: bytes, kind: str, told: Told, lock: threading.Lock) -> tuple[int, bytes, float]:
        """Upload: the status, the answer, and seconds to come again in. A connection that breaks counts as an error."""
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=180)
        try:
            connection.request("POST", "/v2/predict", body, {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read()
            with lock:
                told.statuses[answer.status] += 1
                told.without_retry += answer.status == 503 and not answer.getheader("Retry-After")
                if answer.status == 200:
                    told.seconds.append(time.perf_counter() - began)
            return answer.status, text, float(answer.getheader("Retry-After", "0"))
        except (OSError, http.client.HTTPException):
            with lock:
                told.errors += 1
            return 0, b"", 0.0
        finally:
            connection.close()


def form(name: str, content: bytes) -> tuple[bytes, str]:
    """A form with one file."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    return head + content + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@contextmanager
def service(outputs: Path, *words: str) -> Iterator[tuple[int, psutil.Process]]:
    """A service of the trained run: its port and its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deepfake.cli", "serve", "served", "--port", "0", "--workers", "2", *words],
        env={**os.environ, "DEEPFAKE_OUTPUTS": str(outputs)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", said)):
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"the service did not start: {said}")
            said += line
        yield int(found[1]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def load(port: int, bodies: Sequence[tuple[bytes, str]], clients: int, seconds: float) -> Told:
    """Clients that each ask again as soon as they are answered; who is told to come again does, then."""
    told, lock, end = Told(), threading.Lock(), time.monotonic() + seconds

    def ask(number: int) -> None:
        client, turn = Client(port), number
        while time.monotonic() < end:
            turn += 1
            _, _, wait = client.send(*bodies[turn % len(bodies)], told, lock)
            time.sleep(max(0.0, min(wait, end - time.monotonic())))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def memory(process: psutil.Process) -> float:
    """Megabytes of a service and its processes."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e6


def hostile_files(video: bytes) -> Iterator[tuple[str, bytes]]:
    """Files that have no answer: cut, bits turned, absurd headers, other things by the name of a video."""
    drawn = random.Random(0)
    for number in range(HOSTILE):
        kind = number % 8
        if kind == 0:
            yield "cut.mp4", video[: drawn.randrange(1, len(video) // 3)]
        elif kind == 1:
            yield "noise.mp4", drawn.randbytes(drawn.randrange(1, 200_000))
        elif kind == 2:
            yield "text.mp4", b"not a video\n" * drawn.randrange(1, 1000)
        elif kind == 3:
            yield "empty.mp4", b""
        elif kind == 4:
            size = drawn.randrange(10_000, 60_000).to_bytes(4, "big")
            yield "bomb.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + size + b"\x08\x02\0\0\0" + drawn.randbytes(500)
        elif kind == 5:
            yield "cut.jpg", b"\xff\xd8\xff\xe0" + drawn.randbytes(2000) + b"\xff\xda"
        elif kind == 6:
            yield "list.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n" * drawn.randrange(1, 9)
        else:
            yield "header.mp4", b"\0\0\0\x20ftypisom" + drawn.randbytes(4000)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="under load")
    parser.add_argument("--videos", type=Path, help="a folder of videos with faces, which MTCNN finds, for throughput")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="while memory is watched")
    chosen = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with tempfile.TemporaryDirectory() as scratch:
        outputs = Path(scratch)
        environment = {**os.environ, "DEEPFAKE_OUTPUTS": scratch}
        subprocess.run([sys.executable, "train.py", *_TRAIN], env=environment, check=True, stdout=subprocess.DEVNULL)
        videos = [path.read_bytes() for path in sorted(outputs.rglob("cache/demo/**/*.mp4"))[:8]]
        bodies = [form("clip.mp4", video) for video in videos]
        rows = [
            *_throughput(outputs, *_asked(bodies, chosen.videos), chosen.seconds),
            *_endurance(outputs, bodies, chosen.requests),
        ]
        rows += _hostile(outputs, videos[0], bodies[0])
    method = (
        f"demo videos of 96 pixels, efficientnet_lite0 + GRU, 8 frames; service, its 2 workers and clients in 2 cores; "
        f"{CLIENTS} clients for {chosen.seconds:g} s, a queue of {QUEUE}; alone and together in {ROUNDS} turns"
        f"{'' if chosen.videos is None else ', of videos in which MTCNN finds faces'}"
    )
    report("serve", method, rows, machine("torch", "fastapi", "uvicorn"))


def _asked(demo: Sequence[tuple[bytes, str]], videos: Path | None) -> tuple[Sequence[tuple[bytes, str]], Sequence[str]]:
    """What clients send, and how the service looks for faces in it."""
    if videos is None:
        return demo, ()
    return [form("clip.mp4", path.read_bytes()) for path in sorted(videos.glob("*.mp4"))], ("dataset.faces=mtcnn",)


def _throughput(
    outputs: Path, bodies: Sequence[tuple[bytes, str]], words: Sequence[str], seconds: float
) -> Iterator[dict[str, object]]:
    with service(outputs, *words, "--queue", str(QUEUE)) as (port, _):
        load(port, bodies, 4, 5)
        rates: dict[int, list[float]] = {1: [], CLIENTS: []}
        found = Told()
        for _ in range(ROUNDS):
            for clients in rates:
                began = time.monotonic()
                told = load(port, bodies, clients, seconds / ROUNDS)
                rates[clients].append(told.statuses[200] / (time.monotonic() - began))
                if clients > 1:
                    found.statuses += told.statuses
                    found.seconds += told.seconds
                    found.errors += told.errors
                    found.without_retry += told.without_retry
    alone, together = (statistics.median(rates[clients]) for clients in (1, CLIENTS))
    other = sum(count for status, count in found.statuses.items() if status not in (200, 503))
    yield row(
        f"answers a second of {CLIENTS} clients / of one at a time",
        together / alone,
        ">= 1.5",
        together=together,
        alone=alone,
        p50_seconds=statistics.median(found.seconds),
        p95_seconds=statistics.quantiles(found.seconds, n=20)[-1],
    )
    yield row(
        f"errors of {CLIENTS} clients other than 503 with Retry-After",
        found.errors + other + found.without_retry,
        "<= 0",
        answered=found.statuses[200],
        come_again=found.statuses[503],
    )


def _endurance(outputs: Path, bodies: Sequence[tuple[bytes, str]], requests: int) -> Iterator[dict[str, object]]:
    with service(outputs, "--queue", "64") as (port, process):
        told, lock = Told(), threading.Lock()
        marks: list[float] = []
        tenth = requests // 10
        for _ in range(10):

            def ask(share: int) -> None:
                for turn in range(share):
                    Client(port).send(*bodies[turn % len(bodies)], told, lock)

            threads = [threading.Thread(target=ask, args=(tenth // 4,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            marks.append(memory(process))
        files = process.num_fds()
    yield row(
        f"memory after {told.statuses.total()} requests / after a tenth of them",
        marks[-1] / marks[0],
        "<= 1.1",
        first_mb=marks[0],
        last_mb=marks[-1],
        most_mb=max(marks),
        answered=told.statuses[200],
        descriptors=files,
    )


def _hostile(outputs: Path, video: bytes, good: tuple[bytes, str]) -> Iterator[dict[str, object]]:
    with service(outputs) as (port, process):
        told, lock, client = Told(), threading.Lock(), Client(port)
        client.send(*good, told, lock)
        before = most = memory(process)
        scored = reasons = 0
        slowest = 0.0
        for name, content in hostile_files(video):
            began = time.perf_counter()
            status, text, _ = client.send(*form(name, content), told, lock)
            slowest = max(slowest, time.perf_counter() - began)
            scored += status == 200
            reasons += status in (415, 422) and bool(json.loads(text)["error"]["code"])
            most = max(most, memory(process))
        alive = client.send(*good, told, lock)[0] == 200
    yield row(f"hostile files with a score, of {HOSTILE}", scored, "<= 0", alive=str(alive), slowest_seconds=slowest)
    yield row(f"hostile files with a reason / {HOSTILE}", reasons / HOSTILE, ">= 0.95", errors=told.errors)
    yield row("memory at most meanwhile / before", most / before, "<= 1.2", before_mb=before, most_mb=most)


if __name__ == "__main__":
    main()
