"""The detector of an exported folder made again from its weights: what takes gradients, which a graph has none of.

Needs torch and captum, no run. Building runs no code from the folder: it is JSON and safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

# What makes maps imports it with the first of them: here it is known beforehand whether it is there.
import captum.attr  # noqa: F401
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from deepfake.data.media import Pixels
from deepfake.errors import UserError, first_line
from deepfake.exporting.graph import MOST_APART
from deepfake.models.detector import Detector, create_detector
from deepfake.models.options import BackboneOptions, head_options
from deepfake.reading.along import GraphLooker
from deepfake.reading.detector import Detector as Reader
from deepfake.reading.folder import WEIGHTS
from deepfake.training.attribution import Attributing
from deepfake.training.saliency import Attribution, MapCheck
from deepfake.training.views import View

#: How far a clip's logit by the weights may lie from that by the graph, which was within :data:`MOST_APART` of it where
#: it was exported: another processor and version of torch round otherwise.
_APART = 10 * MOST_APART


def load_detector(folder: Path, described: Mapping[str, Any]) -> tuple[Detector, list[View]]:
    """The detector that a folder's weights make, on the CPU, and how often and how it looks at a clip.

    Args:
        folder: What ``deepfake export`` wrote.
        described: What its ``config.json`` says.

    Raises:
        UserError: They make none with this version.
    """
    try:
        architecture = described["architecture"]
        # All weights lie beside it: none are fetched first to be overwritten.
        backbone = replace(BackboneOptions(**architecture["backbone"]), pretrained=False, weights=None)
        detector = create_detector(backbone, head_options(architecture["head"]), int(architecture["size"]))
        detector.load_state_dict(load_file(folder / WEIGHTS))
        views = [View(**view) for view in described["preprocessing"]["views"]]
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise UserError(
            f"{WEIGHTS} makes no detector with this version: {first_line(error)}", "export the run again"
        ) from error
    return detector.eval(), views


class WeightLooker:
    """A folder's graph, with maps by its weights.

    Args:
        reader: The folder.

    Raises:
        UserError: See :func:`load_detector`.
    """

    def __init__(self, reader: Reader) -> None:
        self._graph = GraphLooker(reader, "")
        detector, views = load_detector(reader.folder, reader.description)
        self._weights = Attributing(detector, views, torch.device("cpu"), frames=False)

    def look(self, clip: Pixels, mask: NDArray[np.bool_]) -> Attribution:
        """See :class:`deepfake.reading.along.Looker`."""
        said, found = self._graph.look(clip, mask), self._weights.look(clip, mask)
        if found.maps is not None and not abs(said.logit - found.logit) <= _APART:
            return replace(said, why=f"{WEIGHTS} gives another score than the graph does")
        return replace(said, maps=found.maps, why=found.why)

    def check(self, clip: Pixels, mask: NDArray[np.bool_], own: Attribution) -> MapCheck:
        """See :class:`deepfake.reading.along.Looker`."""
        return self._weights.check(clip, mask, own)
