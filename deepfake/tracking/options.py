"""What a user can say about tracking: the ``tracking.*`` keys."""

from __future__ import annotations

from dataclasses import dataclass

from deepfake.options import MOST, chosen, ranged


@dataclass
class TrackingOptions:
    """Where runs are remembered. ``uri`` None means MLFLOW_TRACKING_URI, else sqlite in the outputs folder."""

    uri: str | None = None
    # None: the data set's name.
    experiment: str | None = None
    tags: dict[str, str] | None = None
    system_metrics: bool = True
    system_metrics_seconds: float = ranged(2.0, low=0.5, high=MOST)
    # The trained model as an MLflow model with its signature.
    log_model: bool = True
    # Of a search: its best sweep.keep runs (best), all or none; a single run, or one of a plain grid, keeps its own
    # unless it is none.
    keep_weights: str = chosen("best", ("best", "all", "none"))
