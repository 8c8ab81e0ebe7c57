"""What of a config does not go together, told before work is done that would be in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from deepfake.config import RunConfig
from deepfake.data.augment import changes_anything
from deepfake.data.crop_store import CropStore
from deepfake.data.dataset import settle_faces
from deepfake.data.options import AugmentOptions
from deepfake.errors import UserError
from deepfake.runs.console import Console

if TYPE_CHECKING:
    from deepfake.models.detector import Detector


def check_features(config: RunConfig, detector: Detector) -> None:
    """Refuse to store features that would not be those of an ordinary run.

    Raises:
        UserError: The backbone is trained, clips are changed at random and no views are stored, or the reverse.
    """
    options = config.features
    if not options.cached:
        if options.views is not None:
            raise UserError(f"features.views={options.views} is read only by features=cached", "add features=cached")
        return
    from deepfake.training.features.cache import check_frozen

    check_frozen(detector)
    if config.evaluation.views != ["whole"]:
        raise UserError(
            f"evaluation.views={config.evaluation.views} looks at pictures, which features=cached no longer has",
            "set evaluation.views=[whole], or features=none",
        )
    if config.augment.mixup:
        raise UserError(
            f"augment.mixup={config.augment.mixup} mixes clips, and features=cached trains on what was read of each",
            "set augment.mixup=0, or features=none",
        )
    changed = changes_anything(config.augment) or (config.head.temporal and config.dataset.slack > 0)
    if changed and options.views is None:
        raise UserError(
            "features=cached reads each clip once, and augment or dataset.slack changes training clips in every epoch",
            "set augment=none dataset.slack=0, or features.views=4 to store four changed versions and draw among them",
        )
    if options.views is not None and not changed:
        raise UserError(
            f"features.views={options.views} would store the same features {options.views} times: nothing is changed",
            "set augment=basic, or leave features.views out",
        )


def check_blending(config: RunConfig) -> None:
    """Refuse to blend about faces that are not looked for, before anything is prepared.

    Raises:
        UserError: ``augment.self_blend`` needs landmarks, and ``dataset.faces`` finds none.
    """
    if config.augment.self_blend and config.dataset.view == "patches":
        raise UserError(
            f"augment.self_blend={config.augment.self_blend:g} blends faces, of which dataset.view=patches shows parts",
            "set dataset.view=face, or augment.self_blend=0",
        )
    if not config.augment.self_blend or config.augment.self_blend_mask != "landmarks":
        return
    faces = settle_faces(config.dataset).faces
    if faces in ("none", "center"):
        raise UserError(
            f"augment.self_blend={config.augment.self_blend:g} blends about landmarks, and dataset.faces={faces} looks "
            "for no face",
            f"{_OVAL}; dataset.faces=mtcnn looks for faces",
        )


_OVAL = "set augment.self_blend_mask=oval where the pictures are face crops already"


def check_landmarks(augment: AugmentOptions, train: pd.DataFrame, store: CropStore, console: Console) -> None:
    """Refuse or tell of real training samples without the landmarks that they would be blended about.

    Raises:
        UserError: None of them has any.
    """
    if not augment.self_blend or augment.self_blend_mask != "landmarks":
        return
    names = [str(name) for name in train.loc[train["label"] == 0, "sample_id"]]
    usable = [name for name in names if name in store.records and store.records[name]["status"] == "ok"]
    without = sum(store.records[name].get("landmarks") is None for name in usable)
    if not without:
        return
    told = f"{without} of {len(usable)} real training samples have no landmarks: their crops are of an earlier version"
    if without == len(usable):
        raise UserError(f"augment.self_blend: {told}", f"remove {store.path}, and they are cut anew; or {_OVAL}")
    console.warn(f"{told}, and augment.self_blend leaves them as they are: without {store.path} they are cut anew")
