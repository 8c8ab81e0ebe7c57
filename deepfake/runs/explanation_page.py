"""An explanation as one HTML page that needs nothing else. Measures nothing; see :mod:`deepfake.runs.explanation`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import pandas as pd

from deepfake.errors import printable
from deepfake.runs.load import Trained
from deepfake.tracking import page
from deepfake.tracking.figures import svg
from deepfake.training.decision import meaning

if TYPE_CHECKING:
    from deepfake.reading.along import Moment
    from deepfake.runs.explanation import Explanation

_WIDE = 900
_ROWS = 12


def explanation_page(trained: Trained, found: Explanation) -> str:
    """The page of a file's explanation."""
    name = printable(found.answer.input.path.name)
    body = [
        f"<h1>{svg.escape(name)}</h1>",
        page.tiles(_verdict(trained, found)),
        _links(found),
        page.text(_meaning(trained)),
        *(page.text(one.detail, "note") for one in found.answer.outside),
        page.section("Scores over the file", _timeline(trained, found)),
        page.section("Most suspicious frames", _suspicious(trained, found)),
        page.section("Frames that its head relied on", *_relied(found)),
        page.section("What the map means", *_maps(found)),
        page.section("File and run", page.facts(_facts(trained, found)), *(page.text(n, "soft") for n in found.notes)),
    ]
    return page.page(f"{name}: explanation", body)


def _verdict(trained: Trained, found: Explanation) -> list[tuple[str, str, str]]:
    answer = found.answer
    items = [("called", str(answer.predicted), f"from score {trained.decision.applied_threshold:.4f} on FAKE")]
    if answer.probability is not None:
        items.append(("P(fake)", f"{answer.probability:.4f}", "calibrated"))
    return [*items, ("score", f"{answer.score:.4f}", "the detector's own")]


def _links(found: Explanation) -> str:
    return "" if found.overlay is None else page.links({"the overlay": page.address(found.overlay.name)})


def _meaning(trained: Trained) -> str:
    return meaning(trained.decision)


def _timeline(trained: Trained, found: Explanation) -> str:
    """Scores against time; nothing of a picture, which has one time only."""
    if found.answer.input.kind == "image":
        return ""
    times = [moment.seconds for moment in found.timeline]
    ends = [times[0], times[-1]]
    if ends[0] == ends[1]:
        ends = [0.0, max(ends[1], found.answer.media.duration if found.answer.media else 0.0) or 1.0]
    plot = svg.Plot(svg.axis_over("seconds", ends, room=0.02), svg.Axis("score", 0, 1), width=_WIDE, height=260)
    threshold = trained.decision.applied_threshold
    plot.line(ends, [threshold] * 2, "guide", f"FAKE from {threshold:.3f} on")
    faces = sorted({moment.face for moment in found.timeline})
    for face in faces:
        own = [moment for moment in found.timeline if moment.face == face]
        named = f"face {face + 1}: " if len(faces) > 1 else ""
        plot.points([m.seconds for m in own], [m.score for m in own], face, "", [_said(m) for m in own])
        plot.line(*_steps(own), face, f"{named}clips (line) and their frames (points)")
    drawing = plot.svg(f"scores of {len(times)} frames from {times[0]:.1f} to {times[-1]:.1f} seconds")
    return page.figure("Each clip's score, and each frame's", drawing)


def _steps(moments: Sequence[Moment]) -> tuple[list[float], list[float]]:
    """A level line over each clip, with gaps between."""
    x: list[float] = []
    y: list[float] = []
    for _, clip in groupby(sorted(moments, key=lambda m: (m.clip, m.seconds)), key=lambda m: m.clip):
        own = list(clip)
        x += [own[0].seconds, own[-1].seconds, math.nan]
        y += [own[0].clip_score, own[-1].clip_score, math.nan]
    return x, y


def _said(moment: Moment) -> str:
    return f"frame {moment.frame}, {moment.seconds:.2f} s: {moment.score:.3f}"


def _suspicious(trained: Trained, found: Explanation) -> str:
    """Each frame's crop, with its map where there is one."""
    items = [
        (
            one.moment.score >= trained.decision.applied_threshold,
            (one.painted or one.picture).read_bytes(),
            f"frame {one.moment.frame}",
            [f"{one.moment.seconds:.2f} s", f"score {one.moment.score:.3f}"],
            "",
        )
        for one in found.suspicious
    ]
    return page.faces(items)


def _relied(found: Explanation) -> list[str]:
    """What frames add to their clip's logit, and the attention they get."""
    known = [moment for moment in found.timeline if moment.reliance is not None]
    if not known:
        return []
    times = [moment.seconds for moment in known]
    values = [float(moment.reliance or 0) for moment in known]
    plot = svg.Plot(svg.axis_over("seconds", times, room=0.02), svg.axis_over("logit", [*values, 0]), width=_WIDE)
    plot.line([times[0], times[-1]], [0, 0], "guide")
    plot.points(times, values, 0, "with the frame, less without it", [_said(moment) for moment in known])
    parts = [
        page.text(
            "Each frame was left out once: above 0 it makes its clip look more fake, below 0 less. A frame far from 0 "
            "is one that the head relied on."
        ),
        page.figure("What each frame adds to its clip's logit", plot.svg(f"reliance on {len(known)} frames")),
    ]
    rows = pd.DataFrame(
        {
            "frame": [m.frame for m in known],
            "seconds": times,
            "score": [m.score for m in known],
            "adds to the logit": values,
            **({"attention": [float(m.attention or 0) for m in known]} if known[0].attention is not None else {}),
        }
    )
    strongest = rows.loc[rows["adds to the logit"].abs().sort_values(ascending=False).index[:_ROWS]]
    return [*parts, page.table(strongest, list(strongest.columns), caption="frames relied on most")]


def _maps(found: Explanation) -> list[str]:
    if not found.map_meaningful:
        words = f"No map is painted, for it would mean nothing: {found.why}."
        return [page.text(words, "note"), _similarity(found)]
    return [
        page.text(
            "Red is what makes the detector's logit higher (fake), blue what makes it lower (real): activation times "
            "gradient at the last layer that has places, in one scale for the whole file. It says where the detector "
            "looked, not that the picture was changed there."
        ),
        page.text(f"Checked against the same network with weights drawn anew: {found.why}."),
        _similarity(found),
    ]


def _similarity(found: Explanation) -> str:
    if not found.similarity:
        return ""
    rows = pd.DataFrame({"weights drawn anew": list(found.similarity), "similarity": list(found.similarity.values())})
    shown = page.table(rows, list(rows.columns), caption="similarity of maps")
    return page.folded("Similarity of the map by what was drawn anew (rank correlation)", shown)


def _facts(trained: Trained, found: Explanation) -> dict[str, object]:
    answer, media = found.answer, found.answer.media
    told: dict[str, object] = {"run": trained.record.name, "file": printable(str(answer.input.path))}
    if media is not None:
        told |= {"picture": f"{media.width}x{media.height}, {media.codec}"}
        if answer.input.kind == "video":
            frames = f"{media.frames} {'frame' if media.frames == 1 else 'frames'}"
            told |= {"length": f"{frames}, {media.duration:.2f} s, {media.fps:.3g} a second"}
    if answer.faces is not None:
        told |= {"face found": f"in {answer.faces} of the {answer.frames} frames that the answer is made of"}
    if found.overlay is not None:
        told |= {"overlay": found.overlay.name}
    return told
