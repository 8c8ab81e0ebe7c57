"""What ``deepfake.runs()`` returns: every run that the tracking store knows, as one table."""

from __future__ import annotations

import pandas as pd

from deepfake.hydra_app import called_from_python, compose_run
from deepfake.tracking.run_table import run_table
from deepfake.tracking.store import locate


def runs(*overrides: str, experiment: str | None = None, filter: str = "") -> pd.DataFrame:
    """One row per run, newest first: what it is, how it ended, its metrics and its parameters.

    Args:
        overrides: Where to look, such as ``tracking.uri=...`` or ``paths.outputs=...``; else where runs go by default.
        experiment: Only those of this experiment of MLflow's.
        filter: Only those that meet MLflow's filter, such as ``"metrics.`test/f1` > 0.8"``.

    Returns:
        See :func:`deepfake.tracking.run_table.run_table`; empty where there are no runs.

    Raises:
        UserError: No such experiment, or a filter or an override that cannot be read.
    """
    with called_from_python(computes=False):
        config = compose_run(overrides)
        return run_table(locate(config.tracking, config.outputs), experiment, filter)
