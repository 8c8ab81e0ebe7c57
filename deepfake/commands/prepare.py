"""``deepfake prepare dataset=...``: manifest and crops, before any training; and the stores that are kept."""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from deepfake.data.crop_store import StoreInfo, list_stores, prune_stores
from deepfake.data.manifest import Manifest, rooted_table, save_manifest
from deepfake.data.options import DatasetOptions
from deepfake.errors import UserError
from deepfake.hydra_app import compose_run
from deepfake.options import split_override
from deepfake.runs.build import audit, describe_splits, prepare, read_manifest
from deepfake.runs.console import Console
from deepfake.runs.probing import probed_audit
from deepfake.training.options import switched

EXAMPLES = (
    ("deepfake prepare dataset=faceforensics dataset.root=/data/FaceForensics++", "read, audit, cut faces"),
    ("deepfake prepare --list", "the crops that are kept"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The same overrides as train.py takes, and what to do besides preparing."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as dataset=faceforensics dataset.root=…"
    )
    parser.add_argument(
        "--manifest", type=Path, metavar="FILE", help="also write the table of samples, .csv or .parquet"
    )
    parser.add_argument("--list", action="store_true", help="show the crop stores that are kept; prepare nothing")
    parser.add_argument("--prune", action="store_true", help="remove the crop stores; prepare nothing")
    parser.add_argument(
        "--keep", action="append", default=[], metavar="STORE", help="with --prune: a store to keep; again for another"
    )


def main(arguments: argparse.Namespace) -> int:
    """Prepare, and say what there is now."""
    shard, overrides = _shard(arguments.overrides)
    config = compose_run(overrides)
    console = Console()
    if arguments.keep and not arguments.prune:
        raise UserError("--keep means nothing without --prune", "add --prune, or leave --keep out")
    if arguments.prune:
        removed = prune_stores(config.cache, arguments.keep)
        freed = sum(info.bytes for info in removed) / 1e9
        console.say(f"{len(removed)} crop stores removed, {freed:.2f} GB freed")
    if arguments.list or arguments.prune:
        console.table(_stores_table(list_stores(config.cache)))
        return 0
    manifest = read_manifest(config, console)
    console.say(f"{config.dataset.name}: {describe_splits(manifest)}")
    if arguments.manifest is not None:
        console.say(_write_manifest(manifest, config.dataset, arguments.manifest))
    store = prepare(config, manifest, console, shard)
    counts = ", ".join(f"{count} {status}" for status, count in store.samples["status"].value_counts().items())
    console.say(f"crops: {counts}\nstore: {store.path}")
    if shard[1] > 1:
        console.say(f"the audit waits for all {shard[1]} shares: run this once more without prepare.shard")
    else:
        found = audit(manifest, store)
        if switched(config.evaluation.probe, auto=False):
            found = probed_audit(config, manifest, console)
        console.say(f"\n{found.text()}")
    return 0


def _write_manifest(manifest: Manifest, dataset: DatasetOptions, file: Path) -> str:
    """The table of samples, its paths relative to ``dataset.root`` as given; and how to read it again."""
    given = None if dataset.parts else dataset.root
    root = None if given is None else Path(given).expanduser()
    save_manifest(replace(manifest, table=rooted_table(manifest, root)), file)
    read = f"dataset=table dataset.table={file}" + ("" if given is None else f" dataset.root={given}")
    return f"manifest: {file} (read it with {read})"


def _stores_table(stores: list[StoreInfo]) -> Table:
    table = Table("store", "data sets", "samples", "failed", "GB", "cut", "last written", title_justify="left")
    for info in stores:
        plan = info.settings["plan"]
        kind = "runs" if plan["temporal"] else "spread frames"
        crops = f"{info.settings['faces']} {info.settings['size']} px, {plan['clips']} x {plan['frames']} {kind}"
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.used))
        names = ", ".join(f"{name} ({folder})" for name, folder in info.datasets.items())
        counts = (str(info.samples), str(info.failed), f"{info.bytes / 1e9:.2f}")
        table.add_row(info.key, names, *counts, crops, written)
    return table


def _shard(overrides: list[str]) -> tuple[tuple[int, int], list[str]]:
    """``prepare.shard=i/n`` says which machine this is; it is no part of a run's config."""
    shard, rest = (0, 1), []
    for text in overrides:
        key, value = split_override(text)
        if key != "prepare.shard":
            rest.append(text)
            continue
        match = re.fullmatch(r"(\d+)/(\d+)", value)
        if not match or not int(match[1]) < int(match[2]):
            raise UserError(f"prepare.shard={value!r} is no share", "write i/n with i from 0 to n - 1, such as 0/4")
        shard = int(match[1]), int(match[2])
    return shard, rest
