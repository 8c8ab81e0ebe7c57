"""How much a service takes and how long it works: one place for all of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from deepfake.installation import available_cores

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What a service allows.

    Attributes:
        upload: Bytes of all files of a request.
        text: Bytes of all else in a request: a JSON body, headers and fields of a form.
        files: In one request.
        duration: Seconds that a video may last.
        pixels: Of one frame; 8K has 33 million.
        workers: Processes that decode and find faces.
        queue: Files that may wait beside those in work; what comes beyond is refused.
        batch: Files that are scored together at most.
        file_seconds: For decoding one file, and a second more for each megabyte.
        seconds: From a whole upload to its answer.
        patience: Seconds that a request's body, or its headers, may take beside what :attr:`slowest` allows.
        slowest: Bytes a second; an upload that is slower on average is given up.
        overlay_seconds: For an overlay, beside the answer.
        overlays: Requests that may wait for one.
        kept_seconds: For which an overlay can be fetched.
        kept: Overlays kept at once; the oldest goes first.
        stopping: Seconds that running requests get once the service is told to stop.
    """

    upload: int = 200 * MEGABYTE
    text: int = 64 << 10
    files: int = 8
    duration: float = 600.0
    pixels: int = 35_651_584
    workers: int = field(default_factory=available_cores)
    queue: int = 16
    batch: int = 16
    file_seconds: float = 25.0
    seconds: float = 120.0
    patience: float = 15.0
    slowest: float = 128e3
    overlay_seconds: float = 300.0
    overlays: int = 4
    kept_seconds: float = 600.0
    kept: int = 32
    stopping: float = 30.0

    @property
    def places(self) -> int:
        """Files that are in the service at once, waiting or in work."""
        return self.workers + self.queue

    def upload_seconds(self, received: int) -> float:
        """How long a body may have taken by the time that so many bytes of it are here."""
        return self.patience + received / self.slowest
