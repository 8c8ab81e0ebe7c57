"""How MLflow's UI shows a sweep: a shared view in its experiment's tags, and the addresses of pages.

The view names the columns, charts and order of MLflow 3.17's runs page: the runs of the sweep, test accuracy, F1 and
ROC-AUC, what was swept, and how what the sweep improves went over epochs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from deepfake.metrics import METRICS, metric_names

#: Before the key of a view among an experiment's tags.
PREFIX = "mlflow.sharedViewState."
#: What is compared, in reading order.
COMPARED = tuple(f"test/{name}" for name in metric_names(headline=True))
#: Runs that a bar chart compares.
_BARS = 20
_MODE = {"workflowType": "machine_learning"}
#: MLflow's id of the column of names, and widths in pixels: names say what was chosen.
_NAME, _NAME_WIDTH, _WIDTH = "attributes.`Run Name`", 320, 120


def sweep_view(run_id: str, swept: Sequence[str], objective: str, maximize: bool) -> str:
    """The state of the runs page that compares the runs of a sweep, as MLflow reads it from a tag.

    Args:
        run_id: The sweep's run.
        swept: The parameters that differ.
        objective: The metric that the sweep improves, by which the runs are ordered.
        maximize: Whether more of it is better.
    """
    ordered_by = logged_name(objective)
    # Of a run that was pruned or waits there is its last value alone, and its curve.
    further = [name for name in dict.fromkeys([ordered_by, objective]) if name not in COMPARED]
    columns = [_metric(name) for name in COMPARED] + [_param(name) for name in swept] + list(map(_metric, further))
    bars = [{"type": "BAR", "metricKey": name, "displayName": name} for name in COMPARED]
    lines = {"selectedParams": list(swept), "selectedMetrics": list(COMPARED), "showAllRuns": True}
    sections = [
        _section(run_id, "Test split", bars, columns=len(bars), height=270),
        _section(run_id, "What was swept", [{"type": "PARALLEL", **lines}], columns=1, height=340),
    ]
    if ordered_by != objective:
        sections.insert(1, _section(run_id, "Over epochs", [_curve(objective)], columns=1, height=300))
    state = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{run_id}'",
        "orderByKey": _metric(ordered_by),
        "orderByAsc": not maximize,
        "selectedColumns": columns,
        "columnOrder": [_NAME, *columns],
        "columnWidths": {_NAME: _NAME_WIDTH, **dict.fromkeys(columns, _WIDTH)},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [section for section, _ in sections],
        "compareRunCharts": [chart for _, charts in sections for chart in charts],
        # Else MLflow sorts the sections by name.
        "isAccordionReordered": True,
    }
    return json.dumps(state)


def logged_name(metric: str) -> str:
    """Under which name a run logs the value that a metric had at its best epoch."""
    split, _, name = metric.partition("/")
    return f"best/{metric}" if split == "val" and name in METRICS else metric


def tag_of(run_id: str) -> str:
    """The experiment's tag that holds a sweep's view.

    Raises:
        ValueError: That is no id of a run.
    """
    if not re.fullmatch(r"\w+", run_id):
        raise ValueError(f"{run_id!r} is no id of a run")
    return f"{PREFIX}{run_id}"


def sweep_page(address: str, experiment: str, run_id: str, *, charts: bool = False) -> str:
    """The page that compares a sweep's runs: as a table, or in charts.

    Args:
        address: The server's; empty for a link within its pages.
        experiment: The experiment's id.
        run_id: The sweep's run.
        charts: Bars and parallel coordinates instead of the table.
    """
    given = {"viewStateShareKey": run_id, **_MODE, **({"compareRunsMode": "CHART"} if charts else {})}
    return _page(address, f"{experiment}/runs?{urlencode(given)}")


def run_page(address: str, experiment: str, run_id: str) -> str:
    """The page of one run; see :func:`sweep_page`."""
    return _page(address, f"{experiment}/runs/{run_id}?{urlencode(_MODE)}")


def _page(address: str, below: str) -> str:
    return f"{address.rstrip('/')}/#/experiments/{below}" if address else f"#/experiments/{below}"


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


def _param(name: str) -> str:
    return f"params.`{name}`"


def _curve(metric: str) -> dict[str, Any]:
    axes = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "lineSmoothness": 0}
    return {"type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], "displayName": metric, **axes}


def _section(
    run_id: str, name: str, charts: Sequence[dict[str, Any]], *, columns: int, height: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A section of charts, and the charts in it."""
    uuid = f"{run_id}-{name}"
    own = {"deleted": False, "isGenerated": False}
    made = {"uuid": uuid, "name": name, "display": True, "isReordered": True, "columns": columns, "cardHeight": height}
    inside = {"metricSectionId": uuid, "runsCountToCompare": _BARS}
    return made | own, [{"uuid": f"{uuid}-{n}", **inside, **chart, **own} for n, chart in enumerate(charts)]
