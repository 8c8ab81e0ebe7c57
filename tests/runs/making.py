"""Finished runs with whole configs, and capsules of them that are made anew with something changed."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from omegaconf import OmegaConf
from safetensors.numpy import save_file

from deepfake.config import plain_yaml, to_plain
from deepfake.data.manifest import make_rows
from deepfake.hydra_app import compose_config
from deepfake.runs.capsules import LISTING
from deepfake.runs.packing import collect, write_capsule
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.provenance import collect as collect_provenance
from deepfake.tracking.run_folder import RunFolder
from deepfake.tracking.run_record import RunRecord, from_folder
from deepfake.tracking.store import locate
from tests.runs.fakes import N, finished_run


def whole_run(place: Path, name: str = "a", *overrides: str, **provenance: object) -> RunRecord:
    """A finished run with a config that this version can run, and weights of one number.

    Args:
        place: Gets its folder.
        name: Of the run and the folder.
        overrides: Of the config.
        provenance: Values in the place of those of here.
    """
    import numpy as np

    from deepfake.data.manifest import Manifest

    record = finished_run(place, name, 0.5)
    folder = RunFolder(record.places[0])
    composed = compose_config([f"name={name}", f"paths.outputs={place}/outputs", *overrides])
    folder.write_config(OmegaConf.to_yaml(composed), plain_yaml(to_plain(composed)), overrides)
    rows = [
        {
            "sample_id": f"d/{i:02d}", "path": f"{i}.png", "kind": "image", "label": i % 2, "method": "m",
            "dataset": "d", "split": "test", "sha256": hashlib.sha256(str(i).encode()).hexdigest(), "bytes": 1,
        }
        for i in range(N)
    ]  # fmt: skip
    folder.write_manifest(Manifest(make_rows(rows), {"d": place}))
    made = collect_provenance(seeds={"seed": 0}, data={"roots": {"d": str(place)}, "choices": {}}, device="cpu")
    folder.write_provenance({**made, "git": {"commit": None}, **provenance})
    folder.best_weights.parent.mkdir(exist_ok=True)
    save_file({"x": np.ones(1, np.float32)}, folder.best_weights)
    return from_folder(folder.path)


def packed(record: RunRecord, target: Path, *, weights: bool = False, data: bool = False) -> Path:
    """A capsule of a run whose cache and store lie beside it."""
    outputs = record.places[0].parent / "outputs"
    store = locate(TrackingOptions(), outputs)
    write_capsule(record, collect(record, store, outputs, weights=weights, data=data), target)
    return target


Members = dict[str, bytes]


def rewritten(
    capsule: Path,
    change: Callable[[Members], object] = lambda members: None,
    listing: Mapping[str, object] | None = None,
    *,
    sign: bool = True,
) -> Path:
    """A copy of a capsule whose members were changed.

    Args:
        capsule: As it was written.
        change: Changes its members in place, by name.
        listing: What its listing says otherwise.
        sign: Whether the listing is made to fit, as somebody would who means harm.
    """
    with zipfile.ZipFile(capsule) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    told = json.loads(members.pop(LISTING)) | dict(listing or {})
    change(members)
    if sign:
        told["members"] = {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
        }
    target = capsule.with_name(f"changed-{capsule.name}")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**members, LISTING: json.dumps(told).encode()}.items():
            archive.writestr(name, content)
    return target
