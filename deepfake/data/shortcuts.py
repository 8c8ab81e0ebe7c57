"""How well a sample's class is told by what should not tell it: its file's format, and how a picture is framed.

Small models, cross-validated so that no group is on both sides. Knows tables only.
"""

from __future__ import annotations

import base64
import binascii
import warnings
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepfake.data.groups import components
from deepfake.data.hashing import THUMBNAIL

#: The facts of a file that a model may not need to see.
METADATA = (
    "width",
    "height",
    "video_frames",
    "duration",
    "fps",
    "bitrate",
    "bytes",
    "codec",
    "pixel_format",
    "quality",
)
_MOST = 20_000  # samples looked at: more change the third digit only
_FOLDS = 5
_LEAST = 10  # samples of each class, and groups, below which nothing can be said


@dataclass
class Shortcut:
    """One way to the label past the face.

    Attributes:
        roc_auc: Of all that was looked at together, cross-validated by group; None where it cannot be had.
        columns: The ROC-AUC of each column alone.
        guilty: The columns that alone come close to it, worst first.
        reason: Why there is no ROC-AUC; else empty.
        told: The finding as a sentence.
    """

    roc_auc: float | None = None
    columns: dict[str, float] = field(default_factory=dict)
    guilty: list[str] = field(default_factory=list)
    reason: str = ""
    told: str = ""


def metadata_shortcut(table: pd.DataFrame) -> Shortcut:
    """The class from the columns of :data:`METADATA` alone.

    Args:
        table: Samples that were decoded, with ``label``, ``groups`` and these columns.
    """
    chosen = _chosen(table)
    reason = _too_few(chosen)
    if reason:
        return Shortcut(reason=reason)
    features = pd.DataFrame({name: _numbers(chosen[name]) for name in METADATA if name in chosen})
    features = features.loc[:, features.nunique() > 1]
    if features.empty:
        return Shortcut(roc_auc=0.5, told="files differ in nothing but their pictures")
    label, chain = chosen["label"].to_numpy(), components(chosen["groups"]).to_numpy()
    alone = {str(name): _trees(features[[name]].to_numpy(), label, chain) for name in features}
    together = max(_trees(features.to_numpy(), label, chain), *alone.values())
    ranked = sorted(alone, key=lambda name: -alone[name])
    guilty = [name for name in ranked if alone[name] > 0.5 + 0.8 * (together - 0.5)][:3] or ranked[:1]
    return Shortcut(together, alone, guilty, told=f"metadata alone tells the class, {', '.join(guilty)} above all")


def framing_shortcut(table: pd.DataFrame) -> Shortcut:
    """The class from a 16 x 16 grey thumbnail by a linear model: framing and background, no trace of manipulation.

    Args:
        table: Samples that were decoded, with ``label``, ``groups`` and ``thumbnail`` (256 bytes in base64).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    chosen = _chosen(table)
    pictures = [thumbnail_of(text) for text in chosen.get("thumbnail", [])]
    there = np.array([picture is not None for picture in pictures], dtype=bool)
    chosen = chosen[there] if len(there) else chosen.head(0)
    reason = _too_few(chosen)
    if reason:
        return Shortcut(reason=reason)
    pixels = np.stack([picture.ravel() for picture in pictures if picture is not None]).astype(np.float64)
    # Brightness and contrast are no framing.
    pixels = (pixels - pixels.mean(1, keepdims=True)) / (pixels.std(1, keepdims=True) + 1e-6)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=200))
    chain = components(chosen["groups"]).to_numpy()
    auc = _cross_validated(model, pixels, chosen["label"].to_numpy(), chain)
    return Shortcut(auc, {}, [], told="how pictures are framed tells the class: a 16-pixel grey thumbnail is enough")


def thumbnail_of(text: object) -> NDArray[np.uint8] | None:
    """The uint8 [16, 16] picture behind its base64 text; None where there is none."""
    if not isinstance(text, str) or not text:
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    if len(data) != THUMBNAIL**2:
        return None
    return np.frombuffer(data, np.uint8).reshape(THUMBNAIL, THUMBNAIL)


def _chosen(table: pd.DataFrame) -> pd.DataFrame:
    return table.sample(_MOST, random_state=0) if len(table) > _MOST else table


def _too_few(table: pd.DataFrame) -> str:
    counts = table["label"].value_counts()
    if len(counts) < 2 or counts.min() < _LEAST:
        return f"fewer than {_LEAST} samples of one class"
    chains = components(table["groups"]).groupby(table["label"]).nunique()
    return f"fewer than {_FOLDS} groups in one class" if chains.min() < _FOLDS else ""


def _numbers(column: pd.Series) -> NDArray[np.float64]:
    """Numbers as they are; words by how often they occur, so that no order is made up."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64)
    codes, _ = pd.factorize(column.astype(str), sort=True)
    return codes.astype(np.float64)


def _trees(features: NDArray[np.float64], label: NDArray, chain: NDArray) -> float:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=40, max_depth=3, min_samples_leaf=5, random_state=0)
    return _cross_validated(model, features, label, chain)


def _cross_validated(model: object, features: NDArray[np.float64], label: NDArray, chain: NDArray) -> float:
    """ROC-AUC of scores that each fold's model gives to groups it never saw; the mean over folds."""
    from sklearn.base import clone
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    scores = []
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        # A fold may hold one class only where groups are few and large; it is left out below.
        warnings.simplefilter("ignore")
        for train, test in folds.split(features, label, chain):
            if len(np.unique(label[train])) < 2 or len(np.unique(label[test])) < 2:
                continue
            fitted = clone(model).fit(features[train], label[train])
            scores.append(roc_auc_score(label[test], fitted.predict_proba(features[test])[:, 1]))
    return float(np.mean(scores)) if scores else 0.5
