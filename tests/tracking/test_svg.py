"""Charts as text: numbers to places, whatever the numbers are."""

from __future__ import annotations

import re
import xml.etree.ElementTree as Tree

import pytest

from deepfake.tracking.figures import svg

NAN, INF = float("nan"), float("inf")


def _checked(drawing: str) -> str:
    """A drawing that is whole, with no number that is none."""
    Tree.fromstring(f"<div>{drawing}</div>")  # noqa: S314 - written by us
    assert not re.search(r"nan|inf", drawing)
    return drawing


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.3, 0.3, [0.3]),
        (-2, 3, [-2, -1, 0, 1, 2, 3]),
        (0, 1e-6, [0, 2e-7, 4e-7, 6e-7, 8e-7, 1e-6]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, found: list[float]) -> None:
    assert svg.ticks(low, high) == pytest.approx(found)


def test_marks_that_lie_close_have_the_digits_to_tell_them_apart() -> None:
    texts = [text for _, text in svg.Axis("", 0.4661, 0.4682).marks()]
    assert len(set(texts)) == len(texts) > 2


def test_whole_axes_have_no_fractions() -> None:
    assert [text for _, text in svg.axis_over("epoch", [1, 2], whole=True).marks()] == ["1", "2"]
    assert [text for _, text in svg.axis_over("epoch", [1], whole=True).marks()] == ["1"]


def test_rates_are_drawn_by_their_powers_and_fractions_are_not() -> None:
    assert svg.axis_over("lr", [1e-5, 1e-2]).log
    assert not svg.axis_over("f1", [0.0, 0.9]).log
    assert not svg.axis_over("size", [16, 512]).log


@pytest.mark.parametrize("values", [[], [NAN], [0.5], [0.5, 0.5], [INF, 0.2], [1e300, -1e300], [0, 1e-12]])
def test_any_numbers_make_a_chart(values: list[float]) -> None:
    places = [float(place) for place in range(len(values))]
    plot = svg.Plot(svg.axis_over("x", places), svg.axis_over("y", values))
    plot.line(places, values, 0, "line").points(places, values, 1, "points").errors(places, values, values, 2)
    _checked(plot.upright(NAN, "never").svg("chart"))


def test_a_gap_is_left_where_a_value_is_missing() -> None:
    plot = svg.Plot(svg.Axis("x", 0, 3), svg.Axis("y", 0, 1))
    assert plot.path([0, 1, 2, 3], [0, NAN, 1, 1]).count("M") == 2


def test_a_single_point_is_seen() -> None:
    plot = svg.Plot(svg.Axis("x", 0, 1), svg.Axis("y", 0, 1))
    assert '<circle class="dot s0"' in plot.line([0.5], [0.5], 0).svg("")


def test_a_thinned_path_keeps_its_ends() -> None:
    plot = svg.Plot(svg.Axis("x", 0, 1), svg.Axis("y", 0, 1))
    x = [place / 9999 for place in range(10_000)]
    whole, thin = plot.path(x, x), plot.path(x, x, apart=6.0)
    assert len(thin) < len(whole) / 50
    assert thin.split("L")[-1] == whole.split("L")[-1]


@pytest.mark.parametrize(
    "rows", [[], [("a", NAN, NAN, NAN)], [("a", 0.5, NAN, NAN)], [("名" * 90, 120.0, 90.0, 300.0)]]
)
def test_whiskers_of_any_rows(rows: list[tuple[str, float, float, float]]) -> None:
    _checked(svg.whiskers(rows, "metric", "said"))


@pytest.mark.parametrize("rows", [[], [("a", 0.0)], [("a", NAN), ("b", 1.0)]])
def test_bars_of_any_rows(rows: list[tuple[str, float]]) -> None:
    Tree.fromstring(svg.bars(rows, "said"))  # noqa: S314


def test_cells_of_a_class_that_is_not_there() -> None:
    assert "none" in _checked(svg.cells([[0, 0], [1, 3]], ["real", "fake"], ["real", "fake"], "said"))


def test_parallel_coordinates_of_numbers_names_and_nothing() -> None:
    rows: list[dict[str, object]] = [
        {"lr": 1e-5, "head": "gru", "metric": 0.5},
        {"lr": 1e-2, "head": None, "metric": 0.7},
        {"lr": NAN, "head": "عربي", "metric": NAN},
        {"lr": 1e-3, "metric": 0.6},
    ]
    drawn = _checked(svg.parallel(rows, ["lr", "head", "absent"], "metric", "said"))
    # The run without the metric is left out, the best one is drawn last.
    assert drawn.count('class="line whole') == 3
    assert drawn.rindex("best") > drawn.index("s0")


def test_the_best_of_a_loss_is_the_smallest() -> None:
    rows: list[dict[str, object]] = [{"k": 1.0, "loss": 0.1}, {"k": 2.0, "loss": 0.9}]
    drawn = svg.parallel(rows, ["k"], "loss", "said", maximize=False)
    best = next(part for part in drawn.split("<path") if "best" in part)
    assert best.partition('"/>')[0].endswith(" 276.0")  # at the axis' lower end


def test_a_long_name_keeps_its_ends() -> None:
    assert svg.shortened("a" * 30 + "z", 11) == "aaaaa…aaaaz"
