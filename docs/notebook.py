"""Executes notebooks/kaggle.ipynb on the demo and writes it back with what it showed: ``python docs/notebook.py``.

What is written names no path of the machine that executed it, and says which code it is the output of.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nbclient
import nbformat
from PIL import Image

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOK = PROJECT / "notebooks" / "kaggle.ipynb"
#: Where the notebook's own folder is on Kaggle.
_WORKING = "/kaggle/working"
_MINUTES = 30
_COLOURS = 24
#: MLflow's word where the environment has no pip, which Kaggle's and Colab's have.
_NO_PIP = "Failed to resolve installed pip version"


def code_digest(book: nbformat.NotebookNode) -> str:
    """Of a notebook's code; ``metadata.executed`` holds that of the code whose outputs it shows."""
    code = [cell.source for cell in book.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


def execute(folder: Path, values: Mapping[str, object], **environment: str) -> nbformat.NotebookNode:
    """The notebook as it stands, executed in a kernel of its own.

    Args:
        folder: The kernel's working directory.
        values: Of the first cell, what is to be otherwise.
        environment: Further variables.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    book = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(book, timeout=60 * _MINUTES, kernel_name="python3", allow_errors=False)
    variables = {**os.environ, "DEEPFAKE_NOTEBOOK": json.dumps(values), **environment}
    # What the figures are drawn by is the notebook's own choice.
    variables.pop("MPLBACKEND", None)
    # Kaggle and Colab have the widgets that a library asks for here.
    variables["PYTHONWARNINGS"] = "ignore:IProgress not found"
    executed: nbformat.NotebookNode = client.execute(cwd=str(folder), env=variables)
    return executed


def cleaned(book: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The same without times of execution and without paths of this machine."""
    for cell in book.cells:
        cell.metadata.pop("execution", None)
    text = nbformat.writes(book)
    for place, name in ((folder, _WORKING), (folder.resolve(), _WORKING), (PROJECT, "deepfake")):
        text = text.replace(str(place), name)
    text = re.sub(re.escape(os.path.realpath(sys.prefix)) + r"/bin/(python|deepfake)[\d.]*", r"\1", text)
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/\w+\.json", "kernel.json", text)
    found: nbformat.NotebookNode = nbformat.reads(text, as_version=4)
    for cell in found.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if _NO_PIP not in output.get("text", "")]
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _smaller(output.data["image/png"])
    found.metadata["executed"] = code_digest(found)
    found.metadata["language_info"] = {"name": "python"}
    return found


def _smaller(picture: str) -> str:
    """A PNG with fewer colours: a notebook in a repository is read, and should be small."""
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image, io.BytesIO() as file:
        image.convert("RGB").quantize(_COLOURS).save(file, "PNG", optimize=True)
        return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    """Execute, clean and write."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        nbformat.write(cleaned(execute(folder, {"DATA": "/kaggle/input"}), folder), NOTEBOOK)


if __name__ == "__main__":
    main()
