"""What a user can say about tracking: the ``tracking.*`` keys."""

from __future__ import annotations

from dataclasses import dataclass

from deepfake.options import MOST, ranged


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
