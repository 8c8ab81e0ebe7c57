"""The pages under docs/ are true: made from the code where they can be, and quoting only what it says."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from deepfake.cli import VERBS
from deepfake.config import known_keys
from deepfake.installation import CONF, SWEEPS
from tests import PROJECT

DOCS = PROJECT / "docs"
QUOTED = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
GAP = "…"


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KEYS = _module("keys")


def _texts(path: Path) -> list[str]:
    """Every text of a module, what is filled in written as a gap."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(p.value) if isinstance(p, ast.Constant) else GAP for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


SAID = [text for path in sorted((PROJECT / "deepfake").rglob("*.py")) for text in _texts(path)]


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_one_that_the_code_says(message: str) -> None:
    # A gap may stand for several; other text must be the code's, from the message's first word to its last.
    shape = re.compile(r"[\s\S]*".join(map(re.escape, message.split(GAP))))
    literal = max(message.split(GAP), key=len).strip()
    assert len(literal) > 5
    assert [text for text in SAID if shape.fullmatch(text)], f"no message of deepfake/ reads {message!r}"


def test_there_are_messages_to_look_up() -> None:
    assert len(QUOTED) >= 25


def test_the_page_of_keys_is_the_one_that_the_options_make() -> None:
    assert KEYS.PAGE.read_text(encoding="utf-8") == KEYS.page(), "run: python docs/keys.py --write"


def test_every_key_is_on_the_page_with_its_meaning() -> None:
    rows = [line.split(" | ") for line in KEYS.page().splitlines() if line.startswith("| `") and line.count(" | ") == 4]
    assert {row[0].split("`")[1] for row in rows} >= set(known_keys())
    assert [row[0] for row in rows if not row[-1].strip(" |")] == [], "a key has no comment in conf/ or sweeps/"


def test_every_choice_and_every_verb_is_named_somewhere() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    assert [verb for verb in VERBS if f"| `{verb}` |" not in pages] == []
    for group in ("model", "backbone", "head", "optimizer", "scheduler", "augment"):
        choices = [path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_")]
        assert [choice for choice in choices if f"`{choice}`" not in pages] == []
    for group in ("search", "sampler", "pruner"):
        choices = [path.stem for path in (SWEEPS / group).glob("*.yaml")]
        assert [choice for choice in choices if f"`{choice}`" not in pages and f"={choice}`" not in pages] == []


@pytest.mark.parametrize("page", sorted([*DOCS.glob("*.md"), PROJECT / "README.md"]), ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []
