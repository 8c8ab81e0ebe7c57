"""The notebook does from its first cell to its last what it says, on data as Kaggle lays it out, and without any."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest

from docs.notebook import NOTEBOOK, code_digest, execute
from tests.end_to_end.conftest import SMALL
from tests.end_to_end.test_layouts import TREES, bring_to_life

#: Not what the notebook says itself.
ON_DEMO = [text for text in SMALL if not text.startswith(("trainer.", "demo.people", "demo.seconds"))]
ON_DATA = [*(text for text in ON_DEMO if not text.startswith("demo.")), "backbone=tiny", "dataset.faces=center"]
#: By what is found first: which sets lie where below /kaggle/input, whose mounts differ.
INPUTS = {
    "dfdc": ["{name}"],
    "faceforensics": ["{name}"],
    "kaggle_140k_faces": ["datasets/somebody/{name}", "datasets/other/kaggle_deepfake_and_real_images"],
}


def texts(book: nbformat.NotebookNode) -> str:
    """All that a notebook shows, as text."""
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    shown = [output.get("text", "") or "\n".join(map(str, output.get("data", {}).values())) for output in outputs]
    return "\n".join(shown)


def settings(outputs: Path) -> list[str]:
    """What makes it quick; the store of the session's other runs, for making one takes longer than training."""
    store = f"tracking.uri=sqlite:///{outputs / 'mlflow.db'}"
    return ["tracking.log_model=false", "tracking.system_metrics=false", "dataset.workers=0", store]


def check(book: nbformat.NotebookNode, folder: Path) -> str:
    """What every execution ends with: as the committed notebook has it, and nothing that is no text."""
    assert code_digest(book) == code_digest(nbformat.read(NOTEBOOK, as_version=4))
    shown = texts(book)
    assert "\x1b" not in shown
    lines = sum(
        output.text.count("\n") for cell in book.cells for output in cell.get("outputs", ()) if "text" in output
    )
    assert lines < 150
    assert len(list((folder / "outputs" / "runs").iterdir())) == 2
    assert (folder / "best_run.zip").stat().st_size > 10_000
    assert (folder / "best.capsule.zip").stat().st_size > 10_000
    assert "REAL" in shown or "FAKE" in shown
    return shown


@pytest.mark.slow
def test_without_a_data_set_it_shows_the_demo(outputs: Path, tmp_path: Path) -> None:
    values = {"DATA": str(tmp_path / "none"), "EPOCHS": 2, "TRIALS": 2, "MORE": [*ON_DEMO, *settings(outputs)]}
    shown = check(execute(tmp_path, values, OMP_NUM_THREADS="1"), tmp_path)
    assert "the synthetic demo is used, which says nothing about real faces" in shown
    assert len(re.findall(r"^trial \d: ", shown, re.MULTILINE)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_a_data_set_of_kaggle_is_found_and_trained_on(name: str, outputs: Path, tmp_path: Path) -> None:
    data, media = tmp_path / "input", tmp_path / "media"
    media.mkdir()
    for place in INPUTS[name]:
        root = data / place.format(name=name)
        TREES[root.name](root)
    bring_to_life(data, media)
    work = tmp_path / "working"
    work.mkdir()
    values: dict[str, object] = {"DATA": str(data), "EPOCHS": 1, "TRIALS": 1, "LIMIT": 40}
    values["MORE"] = [*ON_DATA, *settings(outputs)]
    if len(INPUTS[name]) > 1:
        # By name the other one comes first.
        values["DATASET"] = 1
    shown = check(execute(work, values, OMP_NUM_THREADS="1"), work)
    assert f"training on {name}\n" in shown
    others = [Path(place).name for place in INPUTS[name][1:]]
    assert [other for other in others if f">{other}</th>" not in shown] == []


def test_what_is_committed_was_executed_and_is_small() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    book = nbformat.reads(text, as_version=4)
    nbformat.validate(book)
    assert book.metadata["executed"] == code_digest(book), "execute it: python docs/notebook.py"
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert len(text.encode()) < 300_000
    assert re.findall(r"/(?:home|root|work|tmp|Users)/[\w./-]*|\\u001b", text) == []
    assert "image/png" in text
    json.loads(text)
