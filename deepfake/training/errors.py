"""Ways a fit ends that are nobody's typing mistake."""

from __future__ import annotations


class TrainingDiverged(RuntimeError):  # noqa: N818 - it names what happened, as StopIteration does
    """The loss became NaN or infinite; going on would only waste time."""


class Interrupted(RuntimeError):  # noqa: N818
    """SIGTERM came; everything was saved and ``fit(..., resume=True)`` goes on bit for bit."""
