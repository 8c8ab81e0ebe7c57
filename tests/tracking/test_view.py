"""The view of a sweep's runs, and the addresses of pages."""

from __future__ import annotations

import json

import pytest

from deepfake.tracking.view import logged_name, run_page, sweep_page, sweep_view, tag_of


def test_the_columns_begin_with_the_test_split_and_then_what_was_swept() -> None:
    state = json.loads(sweep_view("abc", ["model", "optimizer.lr"], "val/roc_auc", maximize=True))
    assert state["selectedColumns"] == [
        "metrics.`test/accuracy`",
        "metrics.`test/f1`",
        "metrics.`test/roc_auc`",
        "params.`model`",
        "params.`optimizer.lr`",
        "metrics.`best/val/roc_auc`",
        "metrics.`val/roc_auc`",
    ]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best/val/roc_auc`", False)
    assert "'abc'" in state["searchFilter"]


def test_the_charts_are_of_the_same() -> None:
    state = json.loads(sweep_view("abc", ["model"], "test/f1", maximize=False))
    kinds = [(chart["type"], chart.get("metricKey")) for chart in state["compareRunCharts"]]
    assert kinds[:3] == [("BAR", "test/accuracy"), ("BAR", "test/f1"), ("BAR", "test/roc_auc")]
    (parallel,) = (chart for chart in state["compareRunCharts"] if chart["type"] == "PARALLEL")
    assert parallel["selectedParams"] == ["model"]
    assert parallel["selectedMetrics"] == ["test/accuracy", "test/f1", "test/roc_auc"]
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {
        section["uuid"] for section in state["compareRunSections"]
    }
    assert state["orderByAsc"] is True


def test_what_a_sweep_improves_is_shown_over_epochs_where_it_has_some() -> None:
    for objective, curves in (("val/roc_auc", ["val/roc_auc"]), ("test/f1", []), ("latency_ms", [])):
        charts = json.loads(sweep_view("abc", ["model"], objective, maximize=True))["compareRunCharts"]
        assert [chart["metricKey"] for chart in charts if chart["type"] == "LINE"] == curves


def test_a_view_of_many_swept_keys_fits_into_a_tag() -> None:
    assert len(sweep_view("a" * 32, [f"group.quite_a_long_key_{n}" for n in range(40)], "x", maximize=True)) < 20_000


def test_a_metric_of_every_epoch_is_ordered_by_its_best() -> None:
    assert logged_name("val/roc_auc") == "best/val/roc_auc"
    assert [logged_name(name) for name in ("val/loss", "latency_ms", "test/f1")] == [
        "val/loss",
        "latency_ms",
        "test/f1",
    ]


def test_pages_have_addresses_on_a_server_and_within_its_pages() -> None:
    page = sweep_page("http://127.0.0.1:5000/", "1", "abc")
    assert page == ("http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=abc&workflowType=machine_learning")
    assert sweep_page("", "1", "abc", charts=True).endswith("&compareRunsMode=CHART")
    assert run_page("", "1", "abc") == "#/experiments/1/runs/abc?workflowType=machine_learning"


@pytest.mark.parametrize("run_id", ["", "a b", "a/b", "a`"])
def test_what_is_no_id_names_no_tag(run_id: str) -> None:
    with pytest.raises(ValueError, match="no id"):
        tag_of(run_id)
