"""Who may listen to a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.errors import UserError
from deepfake.sweeping.callbacks import NoCallback, create_callback
from tests.sweeping import toy


def test_the_apps_own_class_is_made_with_the_config() -> None:
    assert isinstance(create_callback(f"{toy.__name__}.Listener", {}), toy.Listener)


def test_none_hears_nothing() -> None:
    assert isinstance(create_callback(None, {}), NoCallback)


@pytest.mark.parametrize(
    "path",
    ["subprocess.getoutput", "os.system", "builtins.print", "pathlib.Path", "nowhere.At", "At", "", "deepfake.x.Y"],
)
def test_a_config_can_have_nothing_else_called(path: str) -> None:
    with pytest.raises(UserError, match="observer"):
        create_callback(path, "touch was_run")


def test_nothing_is_imported_for_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange_module.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="strange_module"):
        create_callback("strange_module.Listener", {})
    assert not (tmp_path / "was_run").exists()
