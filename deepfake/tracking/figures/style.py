"""How every figure looks: colours that colour-blind readers tell apart, lines that survive grey print.

Draws on canvases of its own, never through pyplot, so that no state is shared between runs or threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from deepfake.errors import naming
from deepfake.files import appearing

#: Okabe and Ito 2008, "Color Universal Design"; the yellow is left out, as it vanishes on white paper.
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#56B4E9",
    "#CC79A7",
    "#000000",
)
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: One colour per class everywhere.
REAL_COLOUR, FAKE_COLOUR = BLUE, VERMILLION
GREY = "#666666"

_DPI = 130
#: Of tick labels: a wide letter's width, and how many letters the margin of an axis of numbers has room for.
_INCHES_A_LETTER, _LETTERS_OF_A_NUMBER = 0.075, 3


def new_figure(
    width: float = 5.0,
    height: float = 4.0,
    columns: int = 1,
    rows: int = 1,
    *,
    fitted: bool = False,
    heights: Sequence[float] | None = None,
    names: Sequence[str] = (),
) -> tuple[Figure, list[Axes]]:
    """A figure of that size in inches and its axes, row by row, ready to draw on.

    ``fitted`` measures labels to find the margins; fixed margins take half the time to draw. ``names`` will stand at
    the left axis, so that fixed margins leave room for the longest. ``heights`` are the rows' shares.
    """
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained" if fitted else None)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    if not fitted:
        longest = max((len(line) for name in names for line in name.splitlines()), default=0)
        left = 0.62 + _INCHES_A_LETTER * max(0, longest - _LETTERS_OF_A_NUMBER)
        margins = {
            "left": min(left / width, 0.5),
            "right": 1 - 0.15 / width,
            "bottom": 0.52 / height,
            "top": 1 - 0.48 / height,
        }
        figure.subplots_adjust(**margins, wspace=0.22, hspace=0.45)
    axes = [axis for row in grid for axis in row]
    for axis in axes:
        dress(axis)
    return figure, axes


def dress(axis: Axes) -> None:
    """Light grid below the data, no box, readable sizes."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=9)
    axis.xaxis.label.set_fontsize(10)
    axis.yaxis.label.set_fontsize(10)


def title(axis: Axes, text: str, remark: str = "") -> None:
    """A panel's title, left-aligned, and a smaller line below it."""
    axis.set_title(text, fontsize=11, loc="left", y=1.0, pad=18 if remark else 6)
    if remark:
        axis.annotate(
            remark, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=8.5, color=GREY
        )


def legend(axis: Axes, place: str = "best") -> None:
    """A legend where there is something to name; ``place`` as matplotlib names corners."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc=place, fontsize=8.5, framealpha=0.9, edgecolor="#CCCCCC")  # type: ignore[call-overload]


def say_why(axis: Axes, reason: str) -> None:
    """In place of a drawing: why there is none."""
    axis.set_axis_off()
    axis.text(0.5, 0.5, reason, ha="center", va="center", fontsize=10, color=GREY, wrap=True, transform=axis.transAxes)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure, a PNG or by its suffix a JPEG, that appears whole; returns its path.

    Halves of it that killed processes left are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as partial, naming(path):
        if path.suffix == ".jpg":
            # For photographs, a tenth of the bytes.
            figure.savefig(partial, format="jpeg", facecolor="white", pil_kwargs={"quality": 92})
        else:
            # The lightest compression: it costs a fifth of the time for files a tenth larger.
            figure.savefig(partial, format="png", facecolor="white", pil_kwargs={"compress_level": 1})
    return path
