"""What stands on an exported detector's card. Measures nothing: numbers are told as the run wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepfake.runs.load import Trained


def model_card(trained: Trained, described: Mapping[str, Any]) -> str:
    """The card as Markdown, with Hugging Face's front matter."""
    return f"# {trained.record.name}\n"
