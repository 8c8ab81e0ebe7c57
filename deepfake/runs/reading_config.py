"""What an answer about a file is made of beside the detector's weights, as plain values that others read.

An exported folder holds them, and a model that is logged in MLflow; :class:`deepfake.reading.detector.FileReader` takes
them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from deepfake.config import RunConfig
from deepfake.data.cropping import CutSettings
from deepfake.training.decision import Decision
from deepfake.training.views import views_of

if TYPE_CHECKING:
    from deepfake.models.backbone import Backbone

#: For one file, and one more for each megabyte, unless more were asked for: somebody waits for the answer.
SECONDS = 25.0


def reading_config(
    config: RunConfig,
    run: tuple[str, str | None],
    decision: Decision,
    settings: CutSettings,
    seconds: float,
    backbone: Backbone,
) -> dict[str, Any]:
    """All of it.

    Args:
        config: The run's.
        run: Its name and id.
        decision: Threshold and calibrator.
        settings: How files are cut.
        seconds: For one file, and one more for each megabyte.
        backbone: Knows the mean and deviation of what it reads.
    """
    options = config.evaluation
    return {
        "run": {"name": run[0], "id": run[1]},
        "preprocessing": {
            "crops": dataclasses.asdict(settings),
            "finds_faces": config.dataset.faces not in ("center", "none"),
            "seconds": seconds,
            "mean": list(backbone.mean),
            "std": list(backbone.std),
            "views": [dataclasses.asdict(view) for view in views_of(options.views, options.view_scale)],
        },
        "scoring": {name: getattr(options, name) for name in ("clips", "faces", "top_k")},
        "decision": decision.to_dict(),
    }
