"""A run's folder: the names of its files, and writing them. Knows no MLflow."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from deepfake.data.manifest import Manifest, save_manifest
from deepfake.errors import UserError, masked, naming
from deepfake.files import appearing

CONFIG = "config.yaml"
RESOLVED = "resolved.yaml"
OVERRIDES = "overrides.yaml"
PROVENANCE = "provenance.json"
MANIFEST = "manifest.parquet"
PREDICTIONS = "predictions.parquet"
CLIPS = "clips.parquet"
FRAMES = "frames.parquet"
CALIBRATION = "calibration.json"
DOMAIN = "domain.json"
FEATURES = "features.json"
#: What of the cache it read, by which that is kept for as long as the run is.
USES = "uses.json"
METRICS = "metrics.json"
HISTORY = "history.json"
AUDIT = "audit.json"
AUDIT_TEXT = "audit.txt"
CHECKPOINT = "checkpoints/last.pt"
WEIGHTS = "checkpoints/best.safetensors"
WHOLE_WEIGHTS = "checkpoints/whole.safetensors"
#: What no longer lies there, and why: that its weights were deleted.
LET_GO = "weights.json"
#: The tag that says the same.
LET_GO_TAG = "weights"
#: Of a suite: the numbers on each of its sets, and those that were published beside the run's.
SUITE, PUBLISHED = "eval/suite.csv", "eval/published.csv"
#: Of an ensemble: the runs that it is made of.
ENSEMBLE = "ensemble.json"

#: What an upload leaves out: the training state is of use only while the run goes on, and a model has its own weights.
UNFINISHED = (CHECKPOINT, WHOLE_WEIGHTS, ".*", "*.tmp")
_PICTURES = (".png", ".jpg")


def pictures(folder: Path) -> list[Path]:
    """The figures that lie in a run's folder."""
    return sorted(file for file in (folder / "figures").glob("*") if file.suffix in _PICTURES)


class RunFolder:
    """The folder of one run.

    ``config.yaml`` (as composed), ``resolved.yaml``, ``overrides.yaml``, ``provenance.json``,
    ``manifest.parquet``, ``predictions.parquet``, ``clips.parquet``, ``calibration.json``, ``metrics.json``,
    ``history.json``, ``figures/``, ``checkpoints/``, and ``eval/`` once it is evaluated elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    @property
    def figures(self) -> Path:
        """Where figures go; made on first use."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def best_weights(self) -> Path:
        """The weights of the best epoch."""
        return self.path / WEIGHTS

    @property
    def whole_weights(self) -> Path:
        """The same with what a backbone came with, where that is not among them; for the model that is logged."""
        return self.path / WHOLE_WEIGHTS

    def begin(self) -> None:
        """Take back what an earlier attempt in this folder said of its end."""
        (self.path / LET_GO).unlink(missing_ok=True)

    def end(self) -> None:
        """Remove what is of use only while the run goes on: the training state, larger than all the rest."""
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def write_config(self, composed: str, resolved: str, overrides: Sequence[str]) -> None:
        """The configuration as YAML text, with and without its interpolations, and what was overridden.

        Folders are handed on: the passwords in URIs are left out.
        """
        composed, resolved, overrides = masked(composed), masked(resolved), [masked(text) for text in overrides]
        write_text(self.path / CONFIG, composed)
        write_text(self.path / RESOLVED, resolved)
        # A JSON string is a YAML string, whatever the override holds.
        write_text(
            self.path / OVERRIDES, "".join(f"- {json.dumps(o, ensure_ascii=False)}\n" for o in overrides) or "[]\n"
        )

    def write_provenance(self, provenance: Mapping[str, object]) -> None:
        """See :func:`deepfake.tracking.provenance.collect`."""
        write_json(self.path / PROVENANCE, provenance)

    def write_manifest(self, manifest: Manifest) -> None:
        """Every sample that was selected, with its split."""
        _write(self.path / MANIFEST, lambda path: save_manifest(manifest, path))

    def write_predictions(self, predictions: pd.DataFrame) -> None:
        """One row per sample: sample_id, label, method, dataset, split, score, frames_used, status."""
        _write(self.path / PREDICTIONS, lambda path: predictions.to_parquet(path, index=False))

    def write_clips(self, clips: pd.DataFrame) -> None:
        """One row per clip: sample_id, label, method, dataset, split, clip, logit."""
        _write(self.path / CLIPS, lambda path: clips.to_parquet(path, index=False))

    def write_frames(self, frames: pd.DataFrame) -> None:
        """One row per frame: sample_id, label, method, dataset, split, clip, position, score."""
        _write(self.path / FRAMES, lambda path: frames.to_parquet(path, index=False))

    def write_features(self, keys: Sequence[str]) -> None:
        """The keys of the stored features that were read."""
        write_json(self.path / FEATURES, {"keys": list(keys)})

    def write_uses(self, crops: Collection[str], probes: Collection[str] = ()) -> None:
        """The keys of the crop stores, and of the probes, that were read."""
        write_json(self.path / USES, {"crops": sorted(set(crops)), "probes": sorted(set(probes))})

    def write_domain(self, domain: Mapping[str, object]) -> None:
        """What it was trained on, as :meth:`deepfake.training.domain.Domain.to_dict` gives it."""
        write_json(self.path / DOMAIN, domain)

    def write_calibration(self, calibration: Mapping[str, object]) -> None:
        """What was fitted on validation: threshold and calibrator."""
        write_json(self.path / CALIBRATION, calibration)

    def write_metrics(self, metrics: Mapping[str, object]) -> None:
        """The run's metrics and, by name, why others are not available."""
        write_json(self.path / METRICS, metrics)

    def write_members(self, members: Mapping[str, object]) -> None:
        """The runs that an ensemble is made of; see :class:`deepfake.tracking.run_record.Member`."""
        write_json(self.path / ENSEMBLE, members)

    def write_history(self, history: Sequence[Mapping[str, object]]) -> None:
        """The metrics of each epoch."""
        write_json(self.path / HISTORY, list(history))


def write_json(path: Path, value: object) -> None:
    """JSON that appears whole. It has no NaN and no infinity: they become null, which nobody takes for a number."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n")


def write_text(path: Path, text: str) -> None:
    """UTF-8 text that appears whole."""
    # Undecodable file names arrive as surrogates; they are written back as the bytes they were.
    _write(path, lambda partial: partial.write_bytes(text.encode("utf-8", "surrogateescape")))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    with appearing(path) as partial, naming(path):
        write(partial)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: object) -> object:
    """NumPy's and torch's single numbers, and paths."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def refuse_links(folder: Path, below: str = ".") -> None:
    """Refuse to write where a stranger's link would lead it: below a folder, no link may lead out of it.

    Args:
        folder: The folder of a run.
        below: The part of it that is to be written to; it need not exist.

    Raises:
        UserError: Which link, and where to.
    """
    root = os.path.realpath(folder)
    start = os.path.normpath(os.path.join(root, below))
    for path in [start, *(os.path.join(a, n) for a, folders, files in os.walk(start) for n in (*folders, *files))]:
        target = os.path.realpath(path)
        if os.path.islink(path) and os.path.commonpath((root, target)) != root:
            raise UserError(
                f"{os.path.relpath(path, root)} in {folder} is a link that leads out of it, to {target}, and what is "
                "made would be written there",
                "if you trust it, name a copy in which links are what they lead to: cp -rL",
            )
