"""What is told instead of an answer: a status, a word for programs, a sentence and a hint for people.

Nothing of the machine is in it: no path, no trace."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from deepfake.errors import harmless

#: Statuses of the reasons that have one of their own; every other reason of a file's is 422.
_STATUS = {"unsupported": 415}
#: What to do about a file that has no answer, by its reason.
_HINTS = {
    "no_face": "send a video or picture in which a face can be seen from the front",
    "too_short": "send a longer video",
    "too_long": "cut the part that matters out of it",
    "too_large": "send it in a smaller size",
    "timeout": "send a shorter or smaller file",
    "crashed": "encode it anew, as H.264 in an mp4 say",
    "undecodable": "send a video or picture that other programs can play; a renamed file stays what it is",
    "not_an_image": "send a JPEG, PNG, WebP, BMP or TIFF, or a video",
    "no_video": "send a file with a video stream",
    "empty": "the upload had no bytes: send it again",
    "unsupported": "send an mp4, avi, mov, mkv, webm, m4v, jpg, png, webp, bmp or tif",
}
#: Of these, what was seen inside may name files and modules of this machine: it is logged rather than told.
_INSIDE = {"crashed": "reading it failed", "unreadable": "it could not be read", "missing": "it is not there any more"}


class Fault(Exception):  # noqa: N818 - it is what the body calls it
    """A request that has no answer.

    Args:
        status: Of HTTP.
        code: A word that programs can rely on.
        message: What is wrong.
        hint: What to do about it.
        headers: Beside the usual ones.
        more: Fields beside ``error``.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = harmless(message)
        self.hint = hint
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    def body(self) -> dict[str, Any]:
        """As JSON."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}, **self.more}


def busy(why: str, seconds: float) -> Fault:
    """Come again in so many seconds."""
    wait = max(1, min(60, round(seconds)))
    return Fault(503, "busy", why, f"try again in {wait} s", {"Retry-After": str(wait)})


def unanswered(results: list[dict[str, Any]]) -> Fault:
    """No file of a request has an answer: the first one's reason, and all results where there are several."""
    reason = results[0]["reason"]
    code = str(reason["code"])
    name = results[0]["path"]
    more = {"results": results} if len(results) > 1 else {}
    return Fault(_STATUS.get(code, 422), code, f"{name}: {reason['detail']}", hint_for(code), more=more)


def hint_for(code: str) -> str:
    """What to do about a file that has no answer."""
    return _HINTS.get(code, "send another file, or the same encoded anew")


_PATH = re.compile(r"(?:/[^\s/:'\"()]+){2,}")


def told_outside(code: str, detail: str) -> str:
    """What was seen in a file as a stranger may be told it."""
    # How predict says which key gives more time is of no use to somebody who cannot set it.
    shown = _INSIDE.get(code) or detail.partition("; dataset.")[0]
    return harmless(_PATH.sub("the file", shown))[:500]
