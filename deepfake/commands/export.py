"""``deepfake export RUN FOLDER``: a run as a folder that others use without this project."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepfake.runs.console import Console
from deepfake.runs.export import check_target, export_run
from deepfake.runs.load import open_run
from deepfake.runs.model_card import cost_of_int8

EXAMPLES = (
    ("deepfake export cnn_gru exported/cnn_gru", "weights, ONNX graph, config and model card"),
    ("deepfake export cnn_gru exported/small --quantize int8", "a graph of 8 bits too, and what that costs"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and where to."""
    parser.add_argument(
        "run", metavar="RUN", help="an MLflow run id, a run's name or folder, study:number or best:study"
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to: not there yet, or empty")
    parser.add_argument(
        "--quantize",
        choices=["int8"],
        help="write the graph of 8 bits too, and measure on the run's data what it costs",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="how it scores, such as evaluation.clips=topk"
    )


def main(arguments: argparse.Namespace) -> int:
    """Export, and say how near the graph comes."""
    console = Console()
    target = arguments.folder.expanduser().absolute()
    check_target(target)
    trained = open_run(arguments.run, arguments.overrides, console)
    done = export_run(trained, target, console, int8=arguments.quantize == "int8")
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    console.say(f"exported: {target} ({size / 1e6:.1f} MB)")
    console.say(f"the ONNX graph's logits lie at most {done.apart:.1g} from PyTorch's")
    if done.int8 is not None:
        console.say(_told(done.int8))
    return 0


def _told(measured: Mapping[str, Any]) -> str:
    moved, where = measured["scores_moved"], f"on {measured['samples']} {measured['split']} samples"
    told = f"of 8 bits, {where}: scores move by {moved['median']:.2g} in the median, by {moved['most']:.3f} at most"
    return f"{told}; {cost_of_int8(measured)}"
