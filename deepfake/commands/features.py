"""A run's splits as its detector trains on them: as clips, or as what a frozen backbone made of them.

Wires the feature cache; every check that needs no data comes before a run is begun.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from deepfake.commands.console import Console
from deepfake.commands.shelf import Shelf
from deepfake.config import RunConfig
from deepfake.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from deepfake.commands.data import Data
    from deepfake.models.detector import Detector

#: Fixes the changed versions that are stored, so that runs of all seeds share them.
VIEW_SEED = 0


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
    from deepfake.data.augment import uses_device, uses_pixels
    from deepfake.training.features.cached import check_frozen

    check_frozen(detector)
    changed = uses_device(config.augment) or uses_pixels(config.augment)
    if changed and options.views is None:
        raise UserError(
            "features=cached reads each clip once, and augment changes training clips at random in every epoch",
            "set augment=none, or features.views=4 to store four changed versions of each and draw among them",
        )
    if options.views is not None and not changed:
        raise UserError(
            f"features.views={options.views} would store the same features {options.views} times: nothing is changed",
            "set augment=basic, or leave features.views out",
        )


def offered(
    config: RunConfig, data: Data, detector: Detector, fabric: Fabric, console: Console, shelf: Shelf
) -> tuple[Detector, Data]:
    """The detector and the data as they are, or both with stored features in the place of clips.

    Without stored features the clips are put on the device where they fit.
    """
    if not config.features.cached:
        return detector, _near(config, data, fabric, console)
    import torch

    from deepfake.data.clips import ClipSet
    from deepfake.training.features.cached import FeatureCache

    if config.trainer.channels_last:
        # As it will be trained: another order in memory is another order of summation.
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    views = config.features.views
    splits = data.splits
    if views is not None:
        drawn = ClipSet(data.store, splits["train"].table, augment=config.augment, seed=VIEW_SEED)
        splits = {**splits, "train": drawn}
    with console.progress() as bar:
        keep = partial(shelf.take, "features")
        cache = FeatureCache(config.cache / "features", config.backbone.name, fabric, console.say, bar, keep)
        found = cache.read(
            detector,
            splits,
            data.store.contents,
            seed=config.seed,
            views={} if views is None else {"train": views},
            changes=json.dumps({**asdict(config.augment), "seed": VIEW_SEED}, sort_keys=True),
        )
    if found is None:
        return detector, _near(config, data, fabric, console)
    reader, sets = found
    return reader, replace(data, splits=dict(sets))


def _near(config: RunConfig, data: Data, fabric: Fabric, console: Console) -> Data:
    from deepfake.training.features.cached import device_room
    from deepfake.training.resident import to_device

    if config.dataset.on_device == "never":
        return data
    splits, told = to_device(data.splits, fabric.device, device_room(fabric.device))
    if told:
        console.say(told)
    return replace(data, splits=dict(splits))
