"""What a run was trained on, kept with it at its end: so that later files can be told from those. Prints nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepfake.data.clips import ClipSet, ClipSource
from deepfake.data.crop_store import CropStore
from deepfake.data.file_facts import facts_of
from deepfake.runs.build import Run
from deepfake.training.options import switched

if TYPE_CHECKING:
    from deepfake.training.domain import Domain

#: Samples of a split whose features are looked at.
_MOST = 300
#: Of what training costs, so much is spent.
_PART = 20
#: What training on a frame costs, in frames that are only read.
_TRAINED = 3
_FILES = 2000  # whose facts are read


def keep_domain(run: Run) -> None:
    """Write ``domain.json`` into a run's folder, where that is wanted and cheap."""
    count = affordable(run)
    if switched(run.config.evaluation.domain, count > 0):
        run.folder.write_domain(domain_of(run, count or _MOST).to_dict())


def affordable(run: Run) -> int:
    """How many samples of each split can be looked at for a twentieth of what training costs.

    Counted in frames that a backbone reads, so that it is the same on every machine.
    """
    config, train = run.config, run.data.splits["train"]
    if config.features.cached:
        return _MOST  # what is stored is read, not computed
    each = 1 if config.backbone.freeze else _TRAINED
    frames = config.trainer.epochs * float(np.sum(train.lengths)) * each / _PART
    return min(int(frames / max([*train.lengths, 1]) / 2), _MOST)


def domain_of(run: Run, most: int) -> Domain:
    """What a run was trained on.

    Args:
        run: With the best epoch's weights.
        most: Samples of each split whose features are looked at.
    """
    from deepfake.training.domain import Domain, fit_cloud, media_ranges, middle_items
    from deepfake.training.domain_features import vectors_of
    from deepfake.training.evaluation import resampling_units
    from deepfake.training.views import views_of

    train, val = run.data.splits["train"], run.data.splits["val"]
    media = {}
    names: dict[str, list[str]] = {kind: [] for kind in ("video", "image")}
    kinds = run.data.manifest.table.set_index("sample_id")["kind"]
    for name in train.table["sample_id"]:
        names[str(kinds[name])].append(str(name))
    for kind, own in names.items():
        chosen = [own[i] for i in _spread(len(own), _FILES)]
        facts = [file_facts(run.data.store, name, kind, run.config.dataset.margin) for name in chosen]
        if any(facts):
            media[kind] = media_ranges([one for one in facts if one])
    options = run.config.evaluation
    view = views_of(options.views, options.view_scale)[0]

    def looked(clips: ClipSource) -> tuple[np.ndarray, np.ndarray]:
        """Features of some samples, and what each belongs to."""
        items = middle_items(clips)
        rows = np.flatnonzero(items >= 0)
        rows = rows[_spread(len(rows), most)]
        vectors = vectors_of(run.detector, clips, items[rows].tolist(), run.fabric, view)
        table = clips.table.iloc[rows]
        groups = run.data.manifest.table.set_index("sample_id")["groups"].loc[table["sample_id"]].reset_index(drop=True)
        return vectors, resampling_units(groups, table["label"].to_numpy(np.int64)).codes

    run.detector.eval()
    try:
        # As they are, not as they are changed at random in training.
        plain = train if run.config.features.cached else ClipSet(run.data.store, train.table)
        return Domain(media, fit_cloud(looked(plain)[0], *looked(val)))
    except ValueError as error:
        return Domain(media, None, str(error))


def _spread(count: int, most: int) -> np.ndarray:
    """Up to so many places of a row, evenly spread."""
    return (
        np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)) if count else np.zeros(0, int)
    )


def file_facts(store: CropStore, name: str, kind: str, margin: float) -> dict[str, float]:
    """What :data:`deepfake.training.domain.FACTS` compares, of a file that was cut; nothing of one that was not.

    Args:
        store: Holds it.
        name: Its sample's.
        kind: ``video`` or ``image``.
        margin: By which its face boxes were enlarged.
    """
    record = store.records.get(name)
    if record is None or record["status"] != "ok" or not record.get("width"):
        return {}
    return facts_of(record, store.frame_records(name)[0], margin)
