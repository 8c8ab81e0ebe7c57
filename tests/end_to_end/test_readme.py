"""README.md's commands do what it says. The environment they make is the one this test already runs in."""

from __future__ import annotations

import re
import shlex

import pytest

from tests import PROJECT
from tests.end_to_end.conftest import Command

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def test_the_first_two_commands_set_everything_up_themselves() -> None:
    assert BLOCKS[0].strip() == (
        "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/python train.py -m model=cnn_lstm,cnn_gru"
    )
    assert BLOCKS[1].strip() == ".venv/bin/pip install -e '.[test]' && .venv/bin/pytest -n 2"


@pytest.mark.slow
def test_the_first_command_trains_tracks_and_compares_two_models(command: Command) -> None:
    last = shlex.split(BLOCKS[0].strip().split("&&")[-1])
    assert last[0] == ".venv/bin/python"
    done = command(*last[1:], fresh=True)
    assert done.returncode == 0, done.stderr
    for name in ("cnn_lstm", "cnn_gru"):
        auc = re.search(rf"^.*{name}.*?([01]\.\d{{4}}).*$", done.stdout.split("compared")[-1], re.MULTILINE)
        assert auc, done.stdout
    assert "deepfake ui" in done.stdout
