"""Options to a checked manifest with splits: the one way into a data set. Opens no video or image."""

from __future__ import annotations

import hashlib
import os
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd

from deepfake.data.layouts import LAYOUTS, Kaggle, Layout, find_layouts
from deepfake.data.layouts.base import list_folders
from deepfake.data.manifest import COLUMNS, Manifest, check_manifest
from deepfake.data.options import DatasetOptions, DemoOptions
from deepfake.data.splits import assign_splits, one_class_splits
from deepfake.errors import DataError, nearest


def read_dataset(
    options: DatasetOptions,
    cache: Path,
    demo: DemoOptions | None = None,
    *,
    trains: bool = True,
    makes_fakes: bool = False,
) -> Manifest:
    """Find, read, split and check a data set.

    Args:
        options: Where it lies and how it is read and split.
        cache: Where the demo is generated, as ``cache/demo/<key>``; nothing else is written.
        demo: How the demo is drawn; read only by the demo layout without a root.
        trains: Whether it is to be trained on. What is only scored needs no training part: of a set that publishes
            none, all that no published split names is test.
        makes_fakes: Whether training makes fakes of real clips, and needs none.

    Returns:
        A manifest in which every sample has a split and, where it is trained on, train holds both classes, or real
        samples where fakes are made of them.

    Raises:
        DataError: The root is missing, empty or in another layout; labels, splits or paths make no sense.
    """
    manifest = read_mix(options, cache) if options.parts else _read_one(options, cache, demo)
    check_manifest(manifest)
    manifest = assign_splits(manifest, options) if trains or not _only_tests(manifest, options) else _all_test(manifest)
    manifest = _limit(manifest, options)
    check_manifest(manifest)
    _check_classes(manifest, trains, makes_fakes)
    return manifest


def _only_tests(manifest: Manifest, options: DatasetOptions) -> bool:
    return options.splits == "auto" and not (manifest.table["split"] == "train").any()


def _all_test(manifest: Manifest) -> Manifest:
    """Where nothing is published to train on, nothing is kept from the test."""
    table = manifest.table
    unnamed = table["split"] == ""
    notes = [*manifest.notes, f"no published training part: all {int(unnamed.sum())} samples without a split are test"]
    return replace(manifest, table=table.assign(split=table["split"].where(~unnamed, "test")), notes=notes)


def _read_one(options: DatasetOptions, cache: Path, demo: DemoOptions | None) -> Manifest:
    """One data set with its published splits."""
    layout = _layout(options)
    if layout.name == "demo" and options.root is None:
        from deepfake.data.demo import make_demo

        root = make_demo(demo or DemoOptions(), cache / "demo")
    else:
        root = _check_root(options)
    begins = layout.probe(root)
    if begins is None and options.table is None:
        raise _unknown_layout(layout, root)
    return layout.read(begins or root, options)


def read_mix(options: DatasetOptions, cache: Path) -> Manifest:
    """Several data sets as one, each with its published splits.

    Footage that two of them share (DFDC and crops made of it) keeps one name, so that no split divides it.

    Raises:
        DataError: A part names no layout, an unknown key, or a data set that cannot be read.
    """
    manifests = []
    taken: set[str] = set()
    for number, part in enumerate(options.parts):
        known = {field.name for field in fields(DatasetOptions)} - {"parts"}
        for key in part:
            if key not in known:
                raise DataError(f"dataset.parts[{number}] has the key {key!r}", nearest(key, known))
        if "layout" not in part:
            raise DataError(f"dataset.parts[{number}] names no layout", nearest("", LAYOUTS))
        part_options = DatasetOptions(**{"name": str(part["layout"]), **part})
        name, count = part_options.name, 1
        while part_options.name in taken:
            count += 1
            part_options.name = f"{name}-{count}"
        taken.add(part_options.name)
        manifests.append(_read_one(part_options, cache, None))
        for other in manifests[:-1]:
            for shared in sorted(set(other.roots) & set(manifests[-1].roots)):
                raise DataError(
                    f"dataset.parts[{number}] holds samples of {shared}, as another part does",
                    "give the other part a name of its own: {name: …, layout: …, root: …}",
                )
    table = pd.concat([manifest.table for manifest in manifests], ignore_index=True)
    extra = [name for name in table.columns if name not in COLUMNS]
    table[extra] = table[extra].fillna("")
    return Manifest(
        table.sort_values("sample_id", kind="stable", ignore_index=True),
        {name: root for manifest in manifests for name, root in manifest.roots.items()},
        [f"{', '.join(manifest.roots)}: {note}" for manifest in manifests for note in manifest.notes],
        official=any(manifest.official for manifest in manifests),
        unknown=[f"{', '.join(manifest.roots)}: {what}" for manifest in manifests for what in manifest.unknown],
    )


def settle_faces(options: DatasetOptions) -> DatasetOptions:
    """The options with ``faces=auto`` made what the layout found needs: ``none`` for face crops, else ``mtcnn``."""
    if options.faces != "auto":
        return options
    parts = [DatasetOptions(**part) for part in options.parts] or [options]
    return replace(options, faces="none" if all(_are_crops(part) for part in parts) else "mtcnn")


def _are_crops(options: DatasetOptions) -> bool:
    layout = _layout(options)
    if isinstance(layout, Kaggle) and options.root is not None:
        found = layout.find(_check_root(options))
        return found is not None and found[0].crops
    return layout.crops


def _layout(options: DatasetOptions) -> Layout:
    if options.layout not in LAYOUTS:
        raise DataError(
            f"dataset.layout={options.layout} is no known layout",
            f"{nearest(options.layout, LAYOUTS)}; several at once: dataset=mix dataset.parts=[{{layout: …, root: …}}]",
        )
    return LAYOUTS[options.layout]


def _check_root(options: DatasetOptions) -> Path:
    if options.root is None:
        if options.table is not None:
            return Path(os.path.abspath(Path(options.table).expanduser())).parent
        raise DataError("dataset.root is not set", "point it at the data set's folder: dataset.root=/path/to/it")
    root = Path(os.path.abspath(Path(options.root).expanduser()))
    if not root.exists():
        above = next((p for p in root.parents if p.exists()), Path("/"))
        hint = nearest(root.name, list_folders(above)[:20]) if above == root.parent else f"{above} is the last that is"
        raise DataError(f"dataset.root={options.root} does not exist", hint)
    if root.is_dir() and next(root.iterdir(), None) is None:
        raise DataError(f"dataset.root={options.root} is empty", "point it at the unzipped data set")
    return root


def _unknown_layout(layout: Layout, root: Path) -> DataError:
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in _first(root))
    found = f"found {', '.join(names)}" if names else "found nothing"
    others = [other.name for other, _ in find_layouts(root)]
    hint = f"this looks like dataset.layout={others[0]}" if others else "give the folder of this layout as dataset.root"
    return DataError(f"{root} is not laid out as {layout.name}: looked for {layout.summary}; {found}", hint)


def _first(root: Path, most: int = 8) -> list[Path]:
    found: list[Path] = []
    for path in root.iterdir() if root.is_dir() else ():
        if len(found) == most:
            break
        found.append(path)
    return found


def _advice(lacking: str | None, makes_fakes: bool) -> str:
    checks = "check dataset.root, dataset.methods and splits"
    if lacking == "fake":
        return f"both classes are needed: {checks}; or make fakes of real clips: augment.self_blend=0.5"
    if lacking == "real" and makes_fakes:
        return f"augment.self_blend makes fakes of real samples: {checks}"
    return f"both classes are needed: {checks}"


def _limit(manifest: Manifest, options: DatasetOptions) -> Manifest:
    """At most ``limit`` samples, spread evenly over splits and classes, whichever order the disk has."""
    table = manifest.table
    if options.limit is None or len(table) <= options.limit:
        return manifest

    def order(name: str) -> str:
        return hashlib.sha256(f"{options.split_seed}:{name}".encode("utf-8", "surrogateescape")).hexdigest()

    keyed = table.assign(_order=table["sample_id"].map(order)).sort_values("_order")
    turn = keyed.groupby(["split", "label"]).cumcount()
    chosen = keyed.assign(_turn=turn).sort_values(["_turn", "_order"]).head(options.limit).index
    notes = [*manifest.notes, f"dataset.limit={options.limit}: {len(table) - options.limit} samples are left out"]
    return replace(manifest, table=table.loc[sorted(chosen)].reset_index(drop=True), notes=notes)


def _check_classes(manifest: Manifest, trains: bool, makes_fakes: bool) -> None:
    counts: pd.Series = manifest.table["split"].value_counts()
    lacking = one_class_splits(manifest.table)
    enough = lacking.get("train") == "fake" and makes_fakes
    if trains and ("train" not in counts.index or "train" in lacking) and not enough:
        what = f"no {lacking['train']} samples" if "train" in lacking else "no samples"
        raise DataError(f"the training part has {what}", _advice(lacking.get("train"), makes_fakes))
    for name, which in lacking.items():
        manifest.notes.append(f"the {name} part holds no {which} sample: ranking metrics cannot be had on it")
    for name in ("val", "test"):
        if name not in counts.index:
            manifest.notes.append(f"there is no {name} part")
