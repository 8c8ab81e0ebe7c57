"""The map of the house shows the house as it stands."""

from __future__ import annotations

import ast
import re

import pytest

from tests import PROJECT

MAP = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8")
ROOMS = ("", "data/", "models/", "training/", "tracking/", "sweeping/", "runs/")
NAMED = sorted(set(re.findall(r"`([\w/.]+\.py)`", MAP)))
MODULES = [path for path in sorted((PROJECT / "deepfake").rglob("*.py")) if path.name != "__init__.py"]


@pytest.mark.parametrize("name", NAMED)
def test_a_file_that_is_named_is_there(name: str) -> None:
    places = [PROJECT / name, *(PROJECT / "deepfake" / room / name for room in ROOMS)]
    assert any(place.is_file() for place in places)


@pytest.mark.parametrize("room", sorted({path.relative_to(PROJECT / "deepfake").parts[0] for path in MODULES}))
def test_every_room_is_on_the_map(room: str) -> None:
    assert room in MAP


def test_a_module_says_what_it_is_for() -> None:
    assert [path.name for path in MODULES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []
