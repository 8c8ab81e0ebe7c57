"""Charts as SVG text that a page holds inside itself: axes, lines, points, bars, cells, parallel coordinates.

Colours, dashes and fonts are classes that ``page.html`` describes once, so that a chart follows the page into the dark
and onto paper. Every text is escaped. Knows numbers and names only; needs no drawing library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape as _html

from deepfake.errors import harmless, masked

#: Lines that can be told apart: so many classes ``s0``, ``s1``, … are described in ``page.html``.
MOST = 7
#: How wide a letter of a label is, at most, in the units of a drawing.
_LETTER = 6.3
_MARKS = 400  # points beyond which none says what it is: they could not be hit
_GAP = 26.0  # from a panel's side to the drawing's, where nothing is written
_FEW = 6  # numbers of which each is written at its axis
_MANY = 500  # points from which on a line is thinned


def escape(text: object) -> str:
    """A text that is shown as it is, whoever wrote it: no markup, no control characters, no passwords of URIs."""
    return _html(harmless(masked(str(text))), quote=True)


def shortened(text: str, letters: int) -> str:
    """A text of at most so many letters; the middle of a longer one is left out."""
    if len(text) <= letters:
        return text
    head = max(1, (letters - 1) // 2)
    return f"{text[:head]}…{text[len(text) - (letters - 1 - head) :]}"


def number(value: float) -> str:
    """A number as a label shows it.

    Example:
        >>> [number(value) for value in (0.5, 0.123456, 1200.0, 2e-05, 3)]
        ['0.5', '0.123', '1,200', '2e-05', '3']
    """
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
    return f"{value:.3g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about so many.

    Example:
        >>> ticks(0, 1)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Axis:
    """One direction of a chart.

    Attributes:
        label: What it shows.
        low: Where it begins.
        high: Where it ends; moved away from ``low`` where they are the same.
        log: Whether equal steps are equal factors; then both ends are above 0.
        whole: Whether only whole numbers are marked.
        names: In place of numbers, names at 0, 1, ….
    """

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False
    names: Sequence[str] = ()

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends on an even scale, apart."""
        low, high = (math.log10(end) if self.log else end for end in (self.low, self.high))
        room = 0.5 if self.whole else abs(low) * 0.05 or 0.5
        return (low, high) if high > low else (low - room, high + room)

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1 between the ends."""
        low, high = self.ends
        return ((math.log10(value) if self.log else value) - low) / (high - low)

    def marks(self, count: int = 5) -> list[tuple[float, str]]:
        """Places from 0 to 1, and what stands there."""
        if self.names:
            return [(self.place(place), name) for place, name in enumerate(self.names)]
        low, high = self.ends
        if not self.log:
            at = ticks(low, high, count)
            at = [value for value in at if value == int(value)] if self.whole else at
            return [(self.place(value), text) for value, text in zip(at, _apart(at), strict=True)]
        decades = [10.0**power for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
        few = decades if len(decades) > 1 else [10.0**low, 10.0**high]
        every = max(1, math.ceil(len(few) / (count + 1)))
        return [(self.place(value), number(value)) for value in few[::every]]


def _apart(values: Sequence[float]) -> list[str]:
    """Evenly spaced numbers with as many digits as it takes to tell them apart."""
    if len(values) < 2 or max(map(abs, values)) >= 1e7 or abs(values[1] - values[0]) < 1e-6:
        return [number(value) for value in values]
    digits = max(0, -math.floor(math.log10(abs(values[1] - values[0])) + 1e-9))
    return [f"{value:,.{digits}f}" for value in values]


def axis_over(label: str, values: Iterable[float], *, whole: bool = False, room: float = 0.05) -> Axis:
    """An axis that holds all finite values, with some room beside them; logarithmic where rates span decades."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Axis(label, 0, 1)
    low, high = min(finite), max(finite)
    if not whole and spans_decades(finite):
        return Axis(label, low, high, log=True)
    beside = (high - low) * room
    return Axis(label, low - beside, high + beside, whole=whole)


def spans_decades(values: Iterable[float]) -> bool:
    """Whether values are rates, drawn by their powers of ten: small, above 0 and twentyfold apart."""
    known = list(values)
    return bool(known) and min(known) > 0 and max(known) / min(known) >= 20 and max(known) < 1


@dataclass
class Plot:
    """A chart with two axes; what is drawn on it is collected, and :meth:`svg` gives the text.

    Attributes:
        across: The horizontal axis.
        up: The vertical axis.
        width: In units of the drawing, of which a screen has one a pixel at most.
        height: Likewise.
    """

    across: Axis
    up: Axis
    width: float = 460
    height: float = 300
    _drawn: list[str] = field(default_factory=list)
    _legend: list[str] = field(default_factory=list)

    @property
    def _left(self) -> float:
        longest = max((len(text) for _, text in self.up.marks()), default=0)
        return 30 + min(longest * _LETTER, 0.4 * self.width)

    def _x(self, value: float) -> float:
        return self._left + self.across.place(value) * (self.width - self._left - _GAP / 2)

    def _y(self, value: float) -> float:
        return 12 + (1 - self.up.place(value)) * (self.height - 56)

    def path(self, x: Sequence[float], y: Sequence[float], *, apart: float = 0.0) -> str:
        """The ``d`` of a line through points; values that are not finite leave a gap.

        Args:
            x: On the horizontal axis.
            y: On the vertical axis, as many.
            apart: Points that are nearer to the last one than so many units of the drawing are left out.
        """
        parts, pen, last = [], "M", (math.inf, math.inf)
        points = list(zip(x, y, strict=True))
        for place, (a, b) in enumerate(points):
            if not (math.isfinite(a) and math.isfinite(b)):
                pen = "M"
                continue
            here = self._x(a), self._y(b)
            near = max(abs(here[0] - last[0]), abs(here[1] - last[1])) < apart
            if pen == "L" and near and place < len(points) - 1:
                continue
            parts.append(f"{pen}{here[0]:.1f} {here[1]:.1f}")
            pen, last = "L", here
        return "".join(parts)

    def line(self, x: Sequence[float], y: Sequence[float], style: int | str, label: str = "") -> Plot:
        """A line; ``style`` is the number of a series, or a class such as ``guide``."""
        kind = f"s{style % MOST}" if isinstance(style, int) else style
        # What lies within a pixel is not seen.
        if d := self.path(x, y, apart=1.0 if len(x) > _MANY else 0.0):
            there = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
            # A single point makes no line.
            self._drawn.append(self._dot(*there[0], kind) if len(there) == 1 else _path(d, kind))
            if label:
                self._legend.append(_key(f'<path class="line {kind}" d="M0 6H26"/>', label))
        return self

    def slots(self, paths: Sequence[str]) -> Plot:
        """As many lines as can be told apart, the first of them with paths; a page's script exchanges these."""
        for place in range(MOST):
            d = paths[place] if place < len(paths) else ""
            self._drawn.append(f'<path class="line s{place}" data-slot="{place}" d="{d}"/>')
        return self

    def points(
        self, x: Sequence[float], y: Sequence[float], style: int | str, label: str = "", names: Sequence[str] = ()
    ) -> Plot:
        """Points; ``names`` say what each is."""
        kind = f"s{style % MOST}" if isinstance(style, int) else style
        said = names if len(names) <= _MARKS else ()
        drawn = [
            self._dot(a, b, kind, said[place] if place < len(said) else "")
            for place, (a, b) in enumerate(zip(x, y, strict=True))
            if math.isfinite(a) and math.isfinite(b)
        ]
        if drawn and label:
            self._legend.append(_key(f'<circle class="dot {kind}" cx="13" cy="6" r="4"/>', label))
        self._drawn += drawn
        return self

    def errors(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], style: int | str) -> Plot:
        """Upright intervals."""
        kind = f"s{style % MOST}" if isinstance(style, int) else style
        for a, b, c in zip(x, low, high, strict=True):
            if all(map(math.isfinite, (a, b, c))):
                self._drawn.append(_path(f"M{self._x(a):.1f} {self._y(b):.1f}V{self._y(c):.1f}", f"{kind} whole"))
        return self

    def steps(self, edges: Sequence[float], heights: Sequence[float], style: int | str, label: str) -> Plot:
        """A histogram's outline, filled: ``edges`` are one more than ``heights``."""
        kind = f"s{style % MOST}" if isinstance(style, int) else style
        zero = self._y(self.up.low)
        d = f"M{self._x(edges[0]):.1f} {zero:.1f}"
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
            d += f"L{self._x(left):.1f} {self._y(height):.1f}H{self._x(right):.1f}"
        self._drawn.append(f'<path class="area {kind}" d="{d}V{zero:.1f}Z"/>')
        self._legend.append(_key(f'<path class="area {kind}" d="M2 1H24V11H2Z"/>', label))
        return self

    def upright(self, x: float, label: str) -> Plot:
        """A dashed line across the chart at ``x``."""
        if math.isfinite(x) and 0 <= self.across.place(x) <= 1:
            self._drawn.append(_path(f"M{self._x(x):.1f} 12V{self.height - 44:.1f}", "guide"))
            self._legend.append(_key('<path class="line guide" d="M0 6H26"/>', label))
        return self

    def _dot(self, a: float, b: float, kind: str, name: str = "") -> str:
        said = f"<title>{escape(name)}</title>" if name else ""
        return f'<circle class="dot {kind}" cx="{self._x(a):.1f}" cy="{self._y(b):.1f}" r="3.6">{said}</circle>'

    def svg(self, described: str) -> str:
        """The chart and its legend; ``described`` is what those hear who do not see it."""
        left, bottom, right = self._left, self.height - 44, self.width - _GAP / 2
        frame = []
        for place, text in self.up.marks():
            y = 12 + (1 - place) * (bottom - 12)
            shown = escape(shortened(text, int((left - 24) / _LETTER)))
            frame.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')
            frame.append(f'<text class="tick end" x="{left - 6:.1f}" y="{y + 3.5:.1f}">{shown}</text>')
        for place, text in self.across.marks():
            x = left + place * (right - left)
            frame.append(f'<path class="grid" d="M{x:.1f} 12V{bottom:.1f}"/>')
            shown = escape(shortened(text, 16))
            frame.append(f'<text class="tick middle" x="{x:.1f}" y="{bottom + 15:.1f}">{shown}</text>')
        middle, centre = (left + right) / 2, (12 + bottom) / 2
        frame.append(f'<text class="label middle" x="{middle:.1f}" y="{bottom + 34:.1f}">{escape(self.across.label)}')
        frame.append(f'</text><text class="label middle" transform="translate(13 {centre:.1f})rotate(-90)">')
        frame.append(f"{escape(self.up.label)}</text>")
        return drawing(self.width, self.height, "".join(frame + self._drawn), described) + legend(self._legend)


def drawing(width: float, height: float, inner: str, described: str) -> str:
    """An SVG element that is as wide as there is room, at most one pixel a unit."""
    return (
        f'<svg class="chart" role="img" aria-label="{escape(described)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}">{inner}</svg>'
    )


def legend(keys: Sequence[str]) -> str:
    """What the lines of a chart are."""
    return f'<ul class="legend">{"".join(keys)}</ul>' if keys else ""


def _key(sample: str, label: str) -> str:
    return f'<li><svg aria-hidden="true" width="26" height="12">{sample}</svg>{escape(label)}</li>'


def _path(d: str, kind: str) -> str:
    return f'<path class="line {kind}" d="{d}"/>'


def whiskers(rows: Sequence[tuple[str, float, float, float]], label: str, described: str) -> str:
    """A line for each name: its value, and its interval where both ends are finite.

    Args:
        rows: Name, value, lower and upper end; NaN where there is none.
        label: Of the axis, which begins at 0 where values are fractions.
        described: What those hear who do not see it.
    """
    known = [end for _, *ends in rows for end in ends if math.isfinite(end)]
    inside = bool(known) and min(known) >= 0 and max(known) <= 1
    axis = Axis(label, 0, 1) if inside or not known else axis_over(label, known)
    width, high = 460.0, 22.0
    left = 12 + min(_LETTER * max((len(name) for name, *_ in rows), default=0), 0.45 * width)
    span, bottom = width - left - 66, 8 + high * len(rows)

    def x(value: float) -> float:
        return left + axis.place(value) * span

    drawn = []
    for place, text in axis.marks():
        at = left + place * span
        drawn.append(f'<path class="grid" d="M{at:.1f} 4V{bottom:.1f}"/>')
        drawn.append(f'<text class="tick middle" x="{at:.1f}" y="{bottom + 15:.1f}">{escape(text)}</text>')
    for place, (name, value, low, top) in enumerate(rows):
        y = 8 + high * (place + 0.5)
        shown = escape(shortened(name, int((left - 6) / _LETTER)))
        drawn.append(f'<text class="tick end" x="{left - 8:.1f}" y="{y + 3.5:.1f}">{shown}</text>')
        if math.isfinite(low) and math.isfinite(top):
            drawn.append(f'<path class="line s0 whole" d="M{x(low):.1f} {y:.1f}H{x(top):.1f}"/>')
        text = "not defined"
        if math.isfinite(value):
            drawn.append(f'<circle class="dot s0" cx="{x(value):.1f}" cy="{y:.1f}" r="4.5"/>')
            text = f"{value:.3f}" if inside else number(value)
        drawn.append(f'<text class="tick" x="{left + span + 8:.1f}" y="{y + 3.5:.1f}">{text}</text>')
    drawn.append(f'<text class="label middle" x="{left + span / 2:.1f}" y="{bottom + 33:.1f}">{escape(label)}</text>')
    return drawing(width, bottom + 42, "".join(drawn), described)


def bars(rows: Sequence[tuple[str, float]], described: str) -> str:
    """A bar for each name, the longest as wide as there is room; values are not negative."""
    width, high = 460.0, 24.0
    left = 12 + min(_LETTER * max((len(name) for name, _ in rows), default=0), 0.5 * width)
    span, most = width - left - 54, max((value for _, value in rows if math.isfinite(value)), default=0) or 1
    drawn = []
    for place, (name, value) in enumerate(rows):
        y, length = 4 + high * place, span * (value / most if math.isfinite(value) else 0)
        shown = escape(shortened(name, int((left - 6) / _LETTER)))
        drawn.append(f'<text class="tick end" x="{left - 8:.1f}" y="{y + 14:.1f}">{shown}</text>')
        drawn.append(f'<rect class="bar s0" x="{left:.1f}" y="{y + 2:.1f}" width="{max(length, 1):.1f}" height="16"/>')
        drawn.append(f'<text class="tick" x="{left + length + 6:.1f}" y="{y + 14:.1f}">{number(value)}</text>')
    return drawing(width, 8 + high * len(rows), "".join(drawn), described)


def cells(counts: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], described: str) -> str:
    """A table of counts, each cell as dark as its part of the row's sum, which is written below the count."""
    size, left, top = 108.0, 96.0, 40.0
    drawn = [f'<text class="label middle" x="{left + size * len(columns) / 2:.1f}" y="14">called</text>']
    for place, name in enumerate(columns):
        drawn.append(f'<text class="tick middle" x="{left + size * (place + 0.5):.1f}" y="33">{escape(name)}</text>')
    for row, (name, values) in enumerate(zip(rows, counts, strict=True)):
        whole, y = sum(values), top + size * row
        for part, line in enumerate(name.split("\n")):
            at = y + size / 2 + 14 * part
            drawn.append(f'<text class="tick end" x="{left - 8:.1f}" y="{at:.1f}">{escape(line)}</text>')
        for column, value in enumerate(values):
            fraction = value / whole if whole else 0.0
            x = left + size * column
            drawn.append(
                f'<rect class="cell" x="{x + 1:.1f}" y="{y + 1:.1f}" width="{size - 2:.0f}" height="{size - 2:.0f}"/>'
                f'<rect class="bar s0" fill-opacity="{0.06 + 0.5 * fraction:.3f}" x="{x + 1:.1f}" y="{y + 1:.1f}" '
                f'width="{size - 2:.0f}" height="{size - 2:.0f}"/>'
                f'<text class="count middle" x="{x + size / 2:.1f}" y="{y + size / 2:.1f}">{value:,.0f}</text>'
                f'<text class="tick middle" x="{x + size / 2:.1f}" y="{y + size / 2 + 20:.1f}">'
                f"{f'{fraction:.1%}' if whole else 'none'}</text>"
            )
    return drawing(left + size * len(columns) + 8, top + size * len(rows) + 6, "".join(drawn), described)


def parallel(
    rows: Sequence[Mapping[str, object]], keys: Sequence[str], target: str, described: str, *, maximize: bool = True
) -> str:
    """Runs as lines across an axis for each key, the last one for the metric; better runs are stronger and on top.

    Args:
        rows: A mapping for each run; a value that is missing leaves a gap.
        keys: Which to draw, in order. One whose values are all numbers gets a scale, any other its values as names.
        target: The metric; rows without it are left out.
        described: What those hear who do not see it.
        maximize: Whether more of the metric is better.
    """
    scored = [row for row in rows if _finite(row.get(target))]
    best_last = sorted(scored, key=lambda row: float(row[target]), reverse=not maximize)  # type: ignore[arg-type]
    columns = [*keys, target]
    scales = [_scale(key, [row.get(key) for row in scored]) for key in columns]
    height, top = 300.0, 44.0
    apart = max(96.0, min(190.0, 860.0 / len(columns)))
    width = 84 + apart * (len(columns) - 1) + 96
    drawn = []
    for place, row in enumerate(best_last):
        quarter = min(3, 4 * place // len(best_last))
        d, pen = "", "M"
        for column, (key, (_, at)) in enumerate(zip(columns, scales, strict=True)):
            y = at(row.get(key))
            if y is None:
                pen = "M"
                continue
            d += f"{pen}{84 + apart * column:.1f} {top + (1 - y) * (height - top - 24):.1f}"
            pen = "L"
        last = " s1 best" if place == len(best_last) - 1 else " s0"
        drawn.append(f'<path class="line whole q{quarter}{last}" d="{d}"/>')
    for column, (key, (marks, _)) in enumerate(zip(columns, scales, strict=True)):
        x = 84 + apart * column
        drawn.append(f'<path class="axis" d="M{x:.1f} {top:.1f}V{height - 24:.1f}"/>')
        name = escape(shortened(key, int(apart / _LETTER)))
        shift = 14 if column % 2 == 0 else 29
        drawn.append(f'<text class="label middle" x="{x:.1f}" y="{shift}"><title>{escape(key)}</title>{name}</text>')
        for level, text in marks:
            y = top + (1 - level) * (height - top - 24) + 3.5
            shown = escape(shortened(text, max(6, int((apart - 30) / _LETTER))))
            drawn.append(f'<text class="tick halo" x="{x + 5:.1f}" y="{y:.1f}">{shown}</text>')
    return drawing(width, height, "".join(drawn), described)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _scale(key: str, values: Sequence[object]) -> tuple[list[tuple[float, str]], Callable[[object], float | None]]:
    """The marks of an axis, and where a value lies on it; None for one that has no place."""
    there = [value for value in values if value is not None and not (isinstance(value, float) and math.isnan(value))]
    numbers = [float(value) for value in there if _finite(value)]  # type: ignore[arg-type]
    if numbers and len(numbers) == len(there):
        axis, distinct = axis_over(key, numbers, room=0.0), sorted(set(numbers))

        def of_number(value: object) -> float | None:
            return axis.place(float(value)) if _finite(value) else None  # type: ignore[arg-type]

        few = [(axis.place(value), number(value)) for value in distinct]
        return few if len(distinct) <= _FEW else axis.marks(), of_number
    names = sorted({str(value) for value in there}, key=_natural)
    places = {name: (place + 0.5) / len(names) for place, name in enumerate(names)}
    every = max(1, math.ceil(len(names) / 14))
    shown = [(at, name) for place, (name, at) in enumerate(places.items()) if place % every == 0]
    return shown, lambda value: places.get(str(value))


def _natural(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
