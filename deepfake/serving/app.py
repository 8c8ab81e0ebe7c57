"""The routes of a service: what is asked, who answers it, and how it is said."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepfake import __version__
from deepfake.serving import contract
from deepfake.serving.counters import TYPE, Counters
from deepfake.serving.desk import Desk
from deepfake.serving.faults import Fault, hint_for, unanswered
from deepfake.serving.fetching import fetch
from deepfake.serving.limits import Limits
from deepfake.serving.model import File, Model, OverlayError
from deepfake.serving.reference import reference_page
from deepfake.serving.roots import file_under
from deepfake.serving.scratch import Kept, request_folder
from deepfake.serving.uploads import (
    Asked,
    Upload,
    describe_file,
    discard,
    kind_of,
    read_flag,
    read_request,
    safe_name,
)

_LOG = logging.getLogger("deepfake.serving")
_HERE = Path(__file__).parent
_FETCHES = 4  # addresses that are fetched from at once
T = TypeVar("T")

#: Nothing is loaded from elsewhere, and nothing runs but the page's own file.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self' blob:; "
    "img-src 'self' blob: data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True)
class Sources:
    """Where files may come from beside uploads.

    Attributes:
        root: The folder in which paths may be named; None for nowhere.
        urls: Whether addresses are fetched from.
    """

    root: Path | None = None
    urls: bool = False


class GoneError(Exception):
    """The client left before its answer."""


def create_app(model: Model, folder: Path, limits: Limits | None = None, sources: Sources | None = None) -> FastAPI:
    """A service over a detector.

    Args:
        model: Loaded; its processes are started and ended with the service.
        folder: For what comes in, and for overlays; see :func:`deepfake.serving.scratch.service_folder`.
        limits: How much is taken.
        sources: Where files may come from beside uploads.
    """
    limits, sources, counters = limits or Limits(), sources or Sources(), Counters()
    desk = Desk(model, limits, counters)
    service = _Service(desk, folder, limits, sources, counters)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await desk.start()
        try:
            yield
        finally:
            await desk.close()
            service.close()

    app = FastAPI(
        title="deepfake serve",
        version=__version__,
        summary=f"REAL or FAKE for videos and images, by {model.name}",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.desk = desk
    app.add_middleware(_Around, counters=counters)
    app.add_exception_handler(Fault, _tell_fault)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(ClientDisconnect, _nobody)
    app.add_exception_handler(GoneError, _nobody)
    app.add_exception_handler(Exception, _tell_bug)
    _add_answers(app, service)
    _add_states(app, service)
    _add_pages(app, service)
    return app


class _Service:
    """What the routes share."""

    def __init__(self, desk: Desk, folder: Path, limits: Limits, sources: Sources, counters: Counters) -> None:
        self.desk = desk
        self.limits = limits
        self.sources = sources
        self.counters = counters
        self.model = desk.model
        self.kept = Kept(folder / "overlays", limits.kept_seconds, limits.kept)
        self._folder = folder
        self._fetching = ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetching")

    def close(self) -> None:
        self._fetching.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: Request, overlay: str, most: int) -> tuple[list[dict[str, Any]], float]:
        """The results of all files of a request, and the seconds that they took once they were here.

        Args:
            request: Its body is not read yet.
            overlay: What its query says of one.
            most: Files that it may bring.

        Raises:
            Fault: No file has an answer, or there is no place for it.
            GoneError: The client left.
        """
        try:
            if request.headers.get("sec-fetch-site") == "cross-site":
                raise Fault(403, "cross_site", "a page of another site asked", "use the page of the service itself")
            painted, limits = read_flag(overlay), replace(self.limits, files=most)
            with self.desk.places() as another:
                async with request_folder(self._folder) as folder:
                    asked = await read_request(request, folder, limits, another)
                    asked.overlay = asked.overlay or painted
                    if asked.overlay and not self.model.overlays:
                        raise Fault(
                            422, "no_overlays", f"{self.model.name} makes no overlays", "ask without overlay=true"
                        )
                    began = time.monotonic()
                    results = await unless_gone(request, self._results(asked, folder))
                    return results, time.monotonic() - began
        except (GoneError, ClientDisconnect):
            self.counters.gone()
            raise
        except Fault as fault:
            if fault.status != 408 and not getattr(request, "_stream_consumed", False):
                await discard(request)
            raise fault

    async def _results(self, asked: Asked, folder: Path) -> list[dict[str, Any]]:
        if asked.path:
            asked.uploads = [self._under_root(asked.path)]
        elif asked.url:
            asked.uploads = [await self._fetched(asked.url, folder)]
        if not asked.uploads:
            raise Fault(400, "no_file", "the form holds no file", "send one as the field 'file'")
        self.counters.received(sum(upload.size for upload in asked.uploads))
        jobs = [self._result(upload, folder, number, asked.overlay) for number, upload in enumerate(asked.uploads)]
        results = await gathered(jobs)
        if all(result["reason"] for result in results):
            raise unanswered(results)
        return results

    async def _result(self, upload: Upload, folder: Path, number: int, overlay: bool) -> dict[str, Any]:
        kind = await asyncio.to_thread(kind_of, upload, self.model.suffixes)
        if not kind:
            self.counters.answered("unsupported")
            return describe_file(upload, kind, "unsupported", "neither a video nor an image, by its name")
        own = folder / f"work-{number}"
        own.mkdir()
        file = File(upload.path, upload.name, kind, own)
        result = await self.desk.answer(file)
        if overlay and not result["reason"]:
            result = {**result, **await self._overlay(file)}
        return result

    async def _overlay(self, file: File) -> dict[str, Any]:
        try:
            made = await self.desk.overlay(file)
            name = await asyncio.to_thread(self.kept.take, made.path)
        except OverlayError as error:
            return {"overlay": {"url": None, "reason": str(error), "note": None}}
        told = {"url": f"/outputs/{name}", "reason": None, "note": made.note or None}
        return {"overlay": told, **({"timeline": made.timeline} if made.timeline else {})}

    def _under_root(self, named: str) -> Upload:
        if self.sources.root is None:
            raise Fault(403, "paths_refused", "this service takes no paths", "upload the file; --root allows paths")
        path = file_under(self.sources.root, named)
        size = path.stat().st_size
        if size > self.limits.upload:
            raise Fault(
                413, "upload_too_large", f"the file is larger than {self.limits.upload >> 20} MB", "name a smaller one"
            )
        return Upload(path, safe_name(named), size=size)

    async def _fetched(self, url: str, folder: Path) -> Upload:
        if not self.sources.urls:
            raise Fault(
                403, "urls_refused", "this service fetches no addresses", "upload the file; --allow-urls allows them"
            )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._fetching, fetch, url, folder, self.limits)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What comes of the work, which is dropped once the client is gone. The request's body has been read.

    Raises:
        GoneError: The client is gone.
    """

    async def wait_for_leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(work)
    leaving = asyncio.create_task(wait_for_leaving())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise GoneError
        return task.result()
    finally:
        for one in (task, leaving):
            one.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def gathered(jobs: list[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first error ends the others."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _add_answers(app: FastAPI, service: _Service) -> None:
    @app.post(
        "/api/v1/predict",
        responses={200: {"model": contract.Prediction}, **contract.FAULTS},
        openapi_extra=contract.request_body(several=False),
        summary="One file: a class and how sure that is",
    )
    async def predict_v1(request: Request, overlay: str = "") -> Response:
        results, seconds = await service.answer(request, overlay, most=1)
        (result,) = results
        return JSONResponse(
            {
                "predicted_class": result["class"],
                "confidence": _confidence(result),
                "output_url": (result.get("overlay") or {}).get("url"),
                "execution_time": round(seconds, 4),
            }
        )

    @app.post(
        "/v2/predict",
        responses={200: {"model": contract.Predictions}, **contract.FAULTS},
        openapi_extra=contract.request_body(several=True),
        summary="Files: all that deepfake predict --json says",
    )
    async def predict_v2(request: Request, overlay: str = "") -> Response:
        results, seconds = await service.answer(request, overlay, most=service.limits.files)
        for result in results:
            if reason := result["reason"]:
                reason["hint"] = hint_for(reason["code"])
        return JSONResponse(_finite({**service.model.description, "results": results, "execution_time": seconds}))

    @app.get("/outputs/{name}", summary="An overlay, for a while after it was made", response_class=FileResponse)
    async def output(name: str) -> Response:
        path = service.kept.find(name)
        if path is None:
            raise Fault(404, "not_found", "there is no such overlay, or not any more", "ask for it again")
        return FileResponse(path, media_type="video/mp4" if path.suffix == ".mp4" else None)


def _confidence(result: dict[str, Any]) -> float:
    """Of the class that is named; by the raw score where there is no calibration."""
    if result["confidence"] is not None:
        return float(result["confidence"])
    score = float(result["score"])
    return score if result["class"] == "FAKE" else 1 - score


def _finite(value: Any) -> Any:
    """The same with null in the place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _add_states(app: FastAPI, service: _Service) -> None:
    @app.get("/health", summary="Whether the service is alive")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready", summary="Whether it takes requests", responses={503: {"model": contract.ErrorBody}})
    async def ready() -> dict[str, Any]:
        if trouble := service.desk.trouble:
            raise Fault(503, "not_ready", trouble, "send requests elsewhere", {"Retry-After": "10"})
        return {"status": "ready", "model": service.model.name}

    @app.get("/v2/model", summary="What answers: its threshold and calibration, and what is taken")
    async def model() -> Response:
        limits = service.limits
        taken = {
            "upload_bytes": limits.upload,
            "files": limits.files,
            "duration_seconds": limits.duration,
            "pixels": limits.pixels,
            "queue": limits.queue,
            "seconds": limits.seconds,
            "overlays": service.model.overlays,
            "paths": service.sources.root is not None,
            "urls": service.sources.urls,
            "suffixes": sorted(service.model.suffixes),
        }
        return JSONResponse(_finite({**service.model.description, "name": service.model.name, "limits": taken}))

    @app.get("/metrics", summary="For Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.counters.text(), media_type=TYPE)


def _add_pages(app: FastAPI, service: _Service) -> None:
    files = {
        name: ((_HERE / f"page.{kind}").read_text(encoding="utf-8"), media)
        for name, kind, media in (
            ("/", "html", "text/html"),
            ("/page.css", "css", "text/css"),
            ("/page.js", "js", "text/javascript"),
        )
    }

    def add(path: str) -> None:
        text, media = files[path]

        @app.get(path, include_in_schema=False)
        async def page() -> Response:
            return Response(text, media_type=media)

    for path in files:
        add(path)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(reference_page(app.openapi()))


async def _tell_fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, Fault)
    return JSONResponse(_finite(error.body()), error.status, headers=error.headers)


async def _tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    fault = Fault(
        error.status_code,
        codes.get(error.status_code, "bad_request"),
        {404: "there is nothing at this address", 405: "this address is not asked in this way"}.get(
            error.status_code, "the request is not as it should be"
        ),
        "see /docs for what there is",
        error.headers,
    )
    return JSONResponse(fault.body(), fault.status, headers=fault.headers)


async def _tell_bug(request: Request, error: Exception) -> Response:
    fault = Fault(500, "internal", "something went wrong in the service", "tell whoever runs it")
    return JSONResponse(fault.body(), 500)


async def _nobody(request: Request, error: Exception) -> Response:
    """The answer that nobody reads; its status is counted."""
    return Response(status_code=499)


class _Around:
    """Counts each request under its route, and says what pages may do."""

    def __init__(self, app: ASGIApp, counters: Counters) -> None:
        self._app = app
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500
        if scope["method"] == "HEAD":  # what GET says, of which the server leaves the body away
            scope = {**scope, "method": "GET"}

        async def passed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(key.encode(), value.encode()) for key, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            with suppress(OSError):  # the client is gone
                await send(message)

        try:
            await self._app(scope, receive, passed)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._counters.responded(route, status, time.monotonic() - began)
