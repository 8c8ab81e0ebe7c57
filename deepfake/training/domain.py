"""What a run was trained on, in few numbers: how its files are, and where its features lie. Knows no files and
no torch; whence features come, :mod:`deepfake.training.domain_features` knows.

A file's distance is Mahalanobis' to the training features (Lee et al. 2018, arXiv:1807.03888), their covariance that of
probabilistic PCA (Tipping and Bishop 1999), and is told relative to those of validation samples: of files like these,
at most a stated fraction is called far (conformal p-values, Vovk et al. 2005).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepfake.errors import UserError, refuse_newer

if TYPE_CHECKING:
    from deepfake.data.clips import ClipSource

Vectors = NDArray[np.float64]

#: Raised with every change that an older reader would misread.
FORMAT = 1
#: Directions in which training features vary most that are kept, at most, and samples for each of them.
_AXES, _EACH = 32, 4
#: Fewer training samples say nothing of distances.
FEWEST = 20
#: The fraction of files like the run's own that are called far, by how many units of validation there are at least:
#: with fewer none could be far at that level.
LEVELS = {199: 0.01, 19: 0.05, 9: 0.1}
#: How far beyond the smallest and largest of training a number may lie.
_SLACK = 1.1


@dataclass(frozen=True)
class Outside:
    """One way in which a file lies outside of what a run was trained on: ``code`` is a word, ``detail`` for people."""

    code: str
    detail: str


@dataclass(frozen=True)
class Fact:
    """One number of a file: its name among what is kept, how it is told, and how much of it."""

    name: str
    said: str
    digits: int = 0


#: What is compared, by the name of the warning.
FACTS = {
    "resolution": Fact("side", "{} pixels on its shorter side"),
    "compression": Fact("bits_per_pixel", "{} bits for each pixel", 4),
    "face_size": Fact("face", "a face of {} pixels"),
    "faces": Fact("faces", "{} faces"),
    "frame_rate": Fact("fps", "{} frames a second", 1),
}


@dataclass(frozen=True)
class Cloud:
    """Where training features lie, and how far from them those of validation are.

    Attributes:
        mean: float64 [D].
        axes: float64 [K, D], of length 1: the directions in which they vary most.
        variances: float64 [K]: along each of them.
        rest: Along every other direction, on average.
        known: float64 [n], rising: the distances of validation samples.
        weights: float64 [n]: of a unit's samples each has its part of 1. Files of one footage or person lie alike.
    """

    mean: Vectors
    axes: Vectors
    variances: Vectors
    rest: float
    known: Vectors
    weights: Vectors

    @property
    def level(self) -> float:
        """The fraction of samples like the run's own that are called far, on average."""
        return next(level for fewest, level in LEVELS.items() if round(self.weights.sum()) >= fewest)

    def distances(self, vectors: Vectors) -> Vectors:
        """How far features [n, D] lie from those of training, [n]."""
        centred = np.asarray(vectors, np.float64) - self.mean
        along = centred @ self.axes.T
        beside = np.maximum((centred**2).sum(1) - (along**2).sum(1), 0)
        return np.sqrt((along**2 / self.variances).sum(1) + beside / self.rest)

    def p_values(self, vectors: Vectors) -> Vectors:
        """The fraction of samples like the run's own that lie at least as far, [n]; never 0."""
        beyond = np.append(np.cumsum(self.weights[::-1])[::-1], 0.0)
        farther = beyond[np.searchsorted(self.known, self.distances(vectors), "left")]
        return (1 + farther) / (1 + self.weights.sum())


def fit_cloud(train: Vectors, val: Vectors, units: NDArray[np.int64]) -> Cloud:
    """A cloud from the features of training samples [n, D] and of validation samples [m, D].

    Args:
        train: Of training samples.
        val: Of validation samples.
        units: What each of these belongs to [m]: a footage, a person.

    Raises:
        ValueError: Too few of either, or numbers that are not finite.
    """
    fewest = min(LEVELS)
    _, codes = np.unique(units, return_inverse=True)
    if len(train) < FEWEST or not len(codes) or codes.max() + 1 < fewest:
        counted = f"{len(train)} training samples and {len(np.unique(units))} footages or people in validation"
        raise ValueError(f"{counted}; {FEWEST} and {fewest} are needed")
    if not (np.isfinite(train).all() and np.isfinite(val).all()):
        raise ValueError("some features are not finite")
    mean = train.mean(0)
    _, spreads, axes = np.linalg.svd(train - mean, full_matrices=False)
    variances = spreads**2 / (len(train) - 1)
    kept = max(1, min(_AXES, len(train) // _EACH, len(variances) - 1))
    rest = float(variances[kept:].sum() / max(train.shape[1] - kept, 1))
    # No direction is certain, however level the features are in it.
    least = max(float(variances[0]) * 1e-6, 1e-12)
    # Kept as they will be read again, so that distances stay what they are.
    mean, axes = mean.astype(np.float32).astype(np.float64), axes[:kept].astype(np.float16).astype(np.float64)
    cloud = Cloud(mean, axes, np.maximum(variances[:kept], least), max(rest, least), np.zeros(0), np.zeros(0))
    distances, weights = cloud.distances(val), 1 / np.bincount(codes)[codes]
    order = np.argsort(distances, kind="stable")
    return replace(cloud, known=distances[order], weights=weights[order])


@dataclass(frozen=True)
class Domain:
    """What a run was trained on.

    Attributes:
        media: By ``video`` and ``image`` the smallest and largest of each of :data:`FACTS`.
        cloud: Where its features lie; None where that is not known, and then ``why``.
        why: See ``cloud``.
    """

    media: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    cloud: Cloud | None = None
    why: str = ""

    def outside(self, kind: str, facts: Mapping[str, float], vector: Vectors | None) -> list[Outside]:
        """How a file lies outside, nothing for one that does not.

        Args:
            kind: ``video`` or ``image``.
            facts: What is known of :data:`FACTS`.
            vector: Its features [D].
        """
        found = [one for code in FACTS if (one := self._fact(code, kind, facts)) is not None]
        if self.media and kind not in self.media:
            found.append(
                Outside("kind", f"a file of kind {kind}; the run was trained on {' and '.join(self.media)} files")
            )
        if self.cloud is not None and vector is not None and len(vector) == len(self.cloud.mean):
            if not np.isfinite(vector).all():
                return [*found, Outside("features", "its features are not finite")]
            p = float(self.cloud.p_values(vector[None])[0])
            if p <= self.cloud.level:
                most = f"of files like those of validation at most {100 * self.cloud.level:g} % do"
                found.append(Outside("features", f"the detector's features of it lie far from training: {most}"))
        return found

    def _fact(self, code: str, kind: str, facts: Mapping[str, float]) -> Outside | None:
        fact = FACTS[code]
        low, high = self.media.get(kind, {}).get(fact.name, (-np.inf, np.inf))
        value = facts.get(fact.name)
        if value is None or low / _SLACK <= value <= high * _SLACK:
            return None
        said, smallest, largest = (f"{number:.{fact.digits}f}" for number in (value, low, high))
        trained = smallest if smallest == largest else f"{smallest} to {largest}"
        return Outside(code, f"{fact.said.format(said)}; the run was trained on {trained}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :func:`load_domain` reads."""
        cloud = self.cloud
        features: dict[str, Any] = {"why": self.why}
        if cloud is not None:
            features = {
                "width": len(cloud.mean),
                "mean": _packed(cloud.mean, "<f4"),
                "axes": _packed(cloud.axes, "<f2"),
                "variances": cloud.variances.tolist(),
                "rest": cloud.rest,
                "known": cloud.known.tolist(),
                "weights": cloud.weights.tolist(),
            }
        return {"format": FORMAT, "media": {kind: dict(own) for kind, own in self.media.items()}, "features": features}


def load_domain(saved: Mapping[str, Any]) -> Domain:
    """What :meth:`Domain.to_dict` gave, as a domain again.

    Raises:
        UserError: It is damaged, or a newer version wrote it.
    """
    refuse_newer(saved.get("format"), FORMAT, "the run's domain.json")
    try:
        media = {
            str(kind): {str(name): (float(low), float(high)) for name, (low, high) in own.items()}
            for kind, own in saved["media"].items()
        }
        features = saved["features"]
        if "mean" not in features:
            return Domain(media, None, str(features.get("why", "")))
        width = int(features["width"])
        cloud = Cloud(
            _unpacked(features["mean"], "<f4"),
            _unpacked(features["axes"], "<f2").reshape(-1, width),
            np.array(features["variances"], np.float64),
            float(features["rest"]),
            np.array(features["known"], np.float64),
            np.array(features["weights"], np.float64),
        )
        numbers = np.concatenate([cloud.mean, cloud.axes.ravel(), cloud.variances, [cloud.rest], cloud.known])
        if len(cloud.mean) != width or len(cloud.axes) != len(cloud.variances) or not np.isfinite(numbers).all():
            raise ValueError("its numbers do not fit together")
        if len(cloud.weights) != len(cloud.known) or not cloud.weights.sum() >= min(LEVELS):
            raise ValueError("its distances and weights do not fit together")
        if cloud.rest <= 0 or (cloud.variances <= 0).any() or (np.diff(cloud.known) < 0).any():
            raise ValueError("its numbers are no variances and distances")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the run's domain.json is damaged: {type(error).__name__}: {error}",
            "restore it, or delete it: files are then not compared with what the run was trained on",
        ) from error
    return Domain(media, cloud)


def _packed(values: Vectors, kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode("ascii")


def _unpacked(text: str, kind: str) -> Vectors:
    return np.frombuffer(base64.b64decode(text), kind).astype(np.float64)


def media_ranges(facts: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """The smallest and largest of each number of some files."""
    names = {name for one in facts for name in one}
    known = {name: [one[name] for one in facts if name in one and np.isfinite(one[name])] for name in names}
    return {name: (float(min(values)), float(max(values))) for name, values in sorted(known.items()) if values}


def middle_items(clips: ClipSource) -> NDArray[np.int64]:
    """The item in the middle of each sample's, of its largest face; [rows], -1 for a sample without clips.

    Distances are of one clip each: a mean over clips would lie nearer, the more of them there are.
    """
    found = np.full(len(clips.table), -1, np.int64)
    own = np.arange(len(clips)) if clips.faces is None else np.flatnonzero(clips.faces == 0)
    rows = clips.items[own, 0]
    for row in np.unique(rows).tolist():
        items = own[rows == row]
        found[row] = items[len(items) // 2]
    return found
