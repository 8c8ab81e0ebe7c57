"""Makes config.md: every config key with its type, default, values and meaning.

Types and values are those of the dataclasses that a config is checked by; defaults and meanings those of the files in
conf/ and sweeps/, where each key has a comment.

python docs/keys.py            # prints the page
python docs/keys.py --write    # puts it into docs/config.md
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from deepfake.config import PathOptions, RunConfig, environment_keys
from deepfake.data.options import AugmentOptions, DatasetOptions, DemoOptions
from deepfake.installation import CONF, SWEEPS
from deepfake.models.options import BackboneOptions, HeadOptions
from deepfake.options import LARGEST, MOST, WIDEST, Range, is_under
from deepfake.sweeping.options import SweepOptions
from deepfake.tracking.options import TrackingOptions
from deepfake.training.options import (
    EvaluationOptions,
    FeatureOptions,
    OptimizerOptions,
    SchedulerOptions,
    SelectionOptions,
    TrainerOptions,
)

PAGE = Path(__file__).resolve().parent / "config.md"
TRAIN = CONF / "train.yaml"
#: Each group: its key, what a config is checked by, the file that says the defaults and meanings.
GROUPS: dict[str, tuple[type[Any], Path]] = {
    "dataset": (DatasetOptions, CONF / "dataset" / "_base.yaml"),
    "demo": (DemoOptions, TRAIN),
    "backbone": (BackboneOptions, CONF / "backbone" / "_base.yaml"),
    "augment": (AugmentOptions, CONF / "augment" / "_base.yaml"),
    "features": (FeatureOptions, CONF / "features" / "none.yaml"),
    "trainer": (TrainerOptions, CONF / "trainer" / "default.yaml"),
    "selection": (SelectionOptions, CONF / "selection" / "_base.yaml"),
    "evaluation": (EvaluationOptions, CONF / "evaluation" / "default.yaml"),
    "tracking": (TrackingOptions, CONF / "tracking" / "mlflow.yaml"),
    "paths": (PathOptions, TRAIN),
}
#: Groups of which one member is chosen, with keys of its own.
FAMILIES: dict[str, type[Any]] = {"head": HeadOptions, "optimizer": OptimizerOptions, "scheduler": SchedulerOptions}
#: What is said by other groups of a sweep.
_ELSEWHERE = ("sampler", "pruner")
_KEY = re.compile(r"(?P<indent> *)(?P<key>\w+):(?P<value>.*)")
_ABOUT = """# Config keys

<!-- made by python docs/keys.py --write -->

Any of these is typed as `key=value` behind `python train.py` or `deepfake train`, and most behind `deepfake evaluate`,
`predict` and `prepare` too; `key=a,b` with `-m` sweeps it. Of the groups `dataset`, `backbone`, `model`, `head`,
`optimizer`, `scheduler`, `augment`, `features`, `sampler`, `pruner` and `search` a whole file is chosen, `head=gru`
say; the defaults here are those of the plainest member, and a chosen one may bring others: `--cfg job` shows what holds
for a command, and runs nothing. Keys marked ◦ say where things lie or how the machine is used: a run is the same
whatever they hold."""


def comments(path: Path) -> dict[str, str]:
    """Each key of a YAML file, dotted, with the comment behind it or above it."""
    found: dict[str, str] = {}
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("#"):
            above.append(line.strip().lstrip("# "))
            continue
        match = _KEY.match(line)
        if match:
            indent = len(match["indent"])
            parents = [one for one in parents if one[0] < indent]
            parents.append((indent, match["key"]))
            behind = re.search(r"(?:^|\s)# ?(.*)", match["value"])
            found[".".join(key for _, key in parents)] = behind[1] if behind else " ".join(above)
        above = []
    return found


def page() -> str:
    """The whole of it."""
    parts = [_ABOUT, "## Of the run", *_table("", _own_fields(), TRAIN)]
    for group, (kind, path) in GROUPS.items():
        parts += [f"## {group}", _about(kind), *_table(group, list(dataclasses.fields(kind)), path)]
    for group, base in FAMILIES.items():
        for file in sorted((CONF / group).glob("*.yaml")):
            target = yaml.safe_load(file.read_text(encoding="utf-8"))["_target_"].rpartition(".")[2]
            kind = next(one for one in base.__subclasses__() if one.__name__ == target)
            parts += [f"## {group}={file.stem}", _about(kind), *_table(group, list(dataclasses.fields(kind)), file)]
    fields = [field for field in dataclasses.fields(SweepOptions) if field.name not in _ELSEWHERE]
    parts += ["## sweep", "How runs are chosen; never saved with a run. [Sweeps](sweeps.md) says more."]
    parts += _table("sweep", fields, SWEEPS / "sweep" / "default.yaml")
    parts += ["## sampler and pruner", *_algorithms()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _own_fields() -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(RunConfig) if field.name not in {*GROUPS, *FAMILIES}]


def _about(kind: type[Any]) -> str:
    text = " ".join((kind.__doc__ or "").replace("``", "`").split())
    return "" if text.startswith(f"{kind.__name__}(") else text


def _table(group: str, fields: list[dataclasses.Field[Any]], path: Path) -> list[str]:
    if not fields:
        return []
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    said = comments(path)
    # Files of one group hold its keys at their top; train.yaml holds them below the group's.
    prefix = f"{group}." if path == TRAIN and group else ""
    values = values.get(group, values) if path == TRAIN and group else values
    lines = ["| key | type | default | values | meaning |", "| --- | --- | --- | --- | --- |"]
    for field in fields:
        name = field.metadata.get("key", field.name)
        key = f"{group}.{name}" if group else name
        mark = " ◦" if is_under(key, environment_keys()) else ""
        default = values[name] if name in values else _default(field)
        cells = [
            f"`{key}`{mark}",
            _type(field),
            f"`{_shown(default)}`",
            _values(field),
            said.get(f"{prefix}{name}", ""),
        ]
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return ["\n".join(lines)]


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]


def _shown(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def _type(field: dataclasses.Field[Any]) -> str:
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "None": "null"}
    parts = [part.strip() for part in str(field.type).split("|")]
    return " or ".join(names.get(part, "any" if part == "Any" else _container(part)) for part in parts)


def _container(text: str) -> str:
    return "list" if text.startswith("list") else "mapping" if text.startswith("dict") else text


def _values(field: dataclasses.Field[Any]) -> str:
    words = field.metadata.get("choices") or field.metadata.get("words", ())
    parts = [", ".join(f"`{word}`" for word in words)] if words else []
    limits = field.metadata.get("range", Range())
    # What is only there against slips of the hand tells nobody anything.
    limits = replace(limits, high=None) if limits.high in (MOST, WIDEST, LARGEST) else limits
    parts += [str(limits)] if limits != Range() else []
    return "; ".join(parts)


def _algorithms() -> Iterator[str]:
    lines = ["| choice | keys it takes, with their defaults |", "| --- | --- |"]
    for group in _ELSEWHERE:
        for path in sorted((SWEEPS / group).glob("*.yaml")):
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            values = values.get("sweep", values).get(group, values) if isinstance(values, dict) else {}
            keys = ", ".join(f"`{key}={_shown(value)}`" for key, value in values.items() if key != "name")
            lines.append(f"| `{group}={path.stem}` | {keys or 'none'} |")
    yield "They are Optuna's; their keys are typed as `sweep.sampler.KEY=` and `sweep.pruner.KEY=`."
    yield "\n".join(lines)


def main() -> None:
    """Print the page, or put it where it belongs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put it into docs/config.md")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")


if __name__ == "__main__":
    main()
