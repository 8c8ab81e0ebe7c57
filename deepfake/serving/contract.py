"""What requests and answers look like, for the page of the interface and for clients that are made from it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Named(BaseModel):
    """A file that is not uploaded: exactly one of ``path`` and ``url``."""

    path: str | None = Field(None, description="A file below the folder that the service was started with (--root)")
    url: str | None = Field(None, description="A public address, where the service was started with --allow-urls")
    overlay: bool = Field(False, description="Whether an overlay video is made, which takes longer")


class Error(BaseModel):
    """What is wrong."""

    code: str = Field(description="A word that programs can rely on, such as no_face")
    message: str = Field(description="A sentence for people")
    hint: str = Field(description="What to do about it")


class ErrorBody(BaseModel):
    """What is said instead of an answer."""

    error: Error


class Prediction(BaseModel):
    """The answer of /api/v1/predict."""

    predicted_class: str = Field(description="FAKE or REAL")
    confidence: float = Field(
        description="Of the class that is named, 0 to 1: calibrated where the detector has a calibration"
    )
    output_url: str | None = Field(
        description="Where the overlay can be fetched for a while; null where none was asked"
    )
    execution_time: float = Field(description="Seconds, from the whole upload to the answer")


class Reason(BaseModel):
    """Why a file has no answer."""

    code: str
    detail: str


class Overlay(BaseModel):
    """What became of the overlay that was asked for."""

    url: str | None = Field(description="Where it can be fetched for a while")
    reason: str | None = Field(description="Why there is none")
    note: str | None = Field(None, description="Why it shows no map; null where it shows one")


class Moment(BaseModel):
    """The score of a clip: of the largest face for ``face`` 0."""

    seconds: float
    score: float
    face: int = 0


class Result(BaseModel):
    """What is said of one file. Fields beside these are those of ``deepfake predict --json``."""

    model_config = ConfigDict(extra="allow")
    path: str = Field(description="The file's name as it was sent")
    kind: str | None
    predicted: str | None = Field(None, alias="class", description="FAKE, REAL, or null without an answer")
    probability: float | None = Field(None, description="That it is fake, calibrated; null without a calibration")
    confidence: float | None = None
    score: float | None = Field(None, description="The detector's own")
    each_face: list[dict[str, Any]] | None = None
    timeline: list[Moment] | None = None
    reason: Reason | None = None
    overlay: Overlay | None = None


class Predictions(BaseModel):
    """The answer of /v2/predict: that of ``deepfake predict --json``, with a timeline and an overlay."""

    model_config = ConfigDict(extra="allow")
    schema_: str = Field(alias="schema")
    threshold: float = Field(description="FAKE begins at this score")
    results: list[Result]
    execution_time: float


_FILE = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}


def request_body(several: bool) -> dict[str, Any]:
    """The OpenAPI description of a request's body, which is read as it comes rather than by FastAPI."""
    file: dict[str, Any] = {"type": "array", "items": _FILE} if several else _FILE
    form = {
        "type": "object",
        "properties": {"file": file, "overlay": {"type": "boolean", "default": False}},
        "required": ["file"],
    }
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": Named.model_json_schema()},
            },
        }
    }


#: What a request can end in beside its answer.
FAULTS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request is not as it should be"},
    403: {"model": ErrorBody, "description": "Paths or addresses are not taken, or not this one"},
    404: {"model": ErrorBody, "description": "No such file"},
    408: {"model": ErrorBody, "description": "The upload came too slowly"},
    413: {"model": ErrorBody, "description": "The upload is too large"},
    415: {"model": ErrorBody, "description": "Neither a video nor an image"},
    422: {"model": ErrorBody, "description": "The file has no answer: code says why, no_face for one"},
    503: {"model": ErrorBody, "description": "Too many files are waiting: try again after Retry-After seconds"},
}
