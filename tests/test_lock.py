"""The locked versions are those of this project, and say nothing of the machine they were found on."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from tests import PROJECT

FILES = ("requirements.lock", "constraints.txt")
TEXTS = {name: (PROJECT / name).read_text(encoding="utf-8") for name in FILES}
ENTRY = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)
PINNED = [(name.lower(), version) for text in TEXTS.values() for name, version in ENTRY.findall(text)]


def _requirements() -> list[Requirement]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [Requirement(text) for text in [*project["dependencies"], *extras["test"], *extras["docs"]]]


@pytest.mark.parametrize("requirement", _requirements(), ids=lambda requirement: requirement.name)
def test_what_the_project_needs_is_locked_to_a_version_that_it_allows(requirement: Requirement) -> None:
    versions = [version for name, version in PINNED if name == requirement.name.lower()]
    assert versions
    assert all(requirement.specifier.contains(version) for version in versions)


def test_every_locked_file_has_hashes() -> None:
    entries = re.split(r"\n(?=[\w])", TEXTS["requirements.lock"])[1:]
    assert len(entries) > 100
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("name", FILES)
def test_no_index_and_no_path_is_named(name: str) -> None:
    lines = [line for line in TEXTS[name].splitlines() if not line.startswith("#")]
    assert [line for line in lines if re.search(r"://|^-|\+cpu|(^|[ =@])/", line)] == []
