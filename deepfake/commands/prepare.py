"""``deepfake prepare dataset=...``: manifest and crops, before any training; and the stores that are kept."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from deepfake.commands.compose import compose_run
from deepfake.commands.console import Console
from deepfake.commands.data import described, read_manifest
from deepfake.data.crops import prepare_crops
from deepfake.data.manifest import save_manifest
from deepfake.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The same overrides as train.py takes, and what to do besides preparing."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as dataset=faceforensics dataset.root=…"
    )
    parser.add_argument(
        "--manifest", type=Path, metavar="FILE", help="also write the table of samples, .csv or .parquet"
    )


def main(arguments: argparse.Namespace) -> int:
    """Prepare, and say what there is now."""
    shard, overrides = _shard(arguments.overrides)
    config = compose_run(overrides)
    console = Console()
    manifest = read_manifest(config, console)
    console.say(f"{config.dataset.name}: {described(manifest)}")
    if arguments.manifest is not None:
        save_manifest(manifest, arguments.manifest)
        console.say(f"manifest: {arguments.manifest}")
    with console.progress() as bar:
        store = prepare_crops(
            manifest,
            config.dataset,
            config.head.temporal,
            config.cache,
            workers=config.dataset.workers,
            progress=bar,
            shard=shard,
            say=console.say,
        )
    counts = ", ".join(f"{count} {status}" for status, count in store.samples["status"].value_counts().items())
    console.say(f"crops: {counts}\nstore: {store.path}")
    return 0


def _shard(overrides: list[str]) -> tuple[tuple[int, int], list[str]]:
    """``prepare.shard=i/n`` says which machine this is; it is no part of a run's config."""
    shard, rest = (0, 1), []
    for text in overrides:
        key, _, value = text.partition("=")
        if key != "prepare.shard":
            rest.append(text)
            continue
        match = re.fullmatch(r"(\d+)/(\d+)", value)
        if not match or not int(match[1]) < int(match[2]):
            raise UserError(f"prepare.shard={value!r} is no share", "write i/n with i from 0 to n - 1, such as 0/4")
        shard = int(match[1]), int(match[2])
    return shard, rest
