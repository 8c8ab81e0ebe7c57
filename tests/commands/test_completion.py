"""The scripts are run by the shells they are for, where those are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from deepfake.commands import VERBS
from deepfake.commands.completion import script

RUN, TRIAL = "outputs/runs/first", "outputs/sweeps/lr/0"
MODELS = {"cnn", "cnn_gru", "cnn_lstm", "cnn_vit", "conv_lstm"}
#: What is typed up to TAB, and what may follow; bash and zsh complete only what stands behind the =.
CASES = [
    ("deepfake eval", {"evaluate"}),
    ("deepfake evaluate ", {RUN, TRIAL}),
    (f"deepfake compare {RUN} ", {RUN, TRIAL}),
    ("deepfake compare --sw", {"--sweep"}),
    ("deepfake train trainer.batch_s", {"trainer.batch_size="}),
    (f"deepfake evaluate {RUN} dataset.roo", {"dataset.root="}),
    ("deepfake train --multir", {"--multirun"}),
    ("deepfake sweep ", {"lr"}),
    ("deepfake sweep lr pa", {"pause"}),
    ("deepfake sweep lr re", {"resume", "retry"}),
    ("deepfake sweep lr add optimizer.l", {"optimizer.lr="}),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for folder in (RUN, TRIAL):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "resolved.yaml").touch()
    (tmp_path / "outputs" / "runs" / "no_run").mkdir()
    return tmp_path


def _shell(name: str, program: str, place: Path) -> set[str]:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    (place / "script").write_text(script(name), encoding="utf-8")
    done = subprocess.run(
        [found, *({"bash": ["--norc"], "fish": ["--no-config"]}.get(name, [])), "-c", program],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(place)},
    )
    return set(done.stdout.split())


def _bash(line: str, place: Path) -> set[str]:
    # As readline parts words: = is one of its own.
    words = line.replace("=", " = ").split() + ([""] if line.endswith(" ") else [])
    program = (
        "source ./script; COMP_WORDS=(" + " ".join(f"'{word}'" for word in words) + ");"
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _deepfake_complete 2>/dev/null; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    return _shell("bash", program, place)


def _fish(line: str, place: Path) -> set[str]:
    return _shell("fish", f"source ./script; complete -C '{line}' | string split -f1 \\t", place)


@pytest.mark.parametrize(("line", "follows"), CASES)
def test_bash_completes(line: str, follows: set[str], place: Path) -> None:
    assert _bash(line, place) == follows


@pytest.mark.parametrize(
    ("line", "follows"),
    [
        ("deepfake train model=", MODELS),
        ("deepfake train -m model=cnn_g", {"cnn_gru"}),
        ("deepfake train -m model=cnn,cnn_l", {"cnn,cnn_lstm"}),
    ],
)
def test_bash_completes_choices_behind_the_equals_sign(line: str, follows: set[str], place: Path) -> None:
    assert _bash(line, place) == follows


@pytest.mark.parametrize(("line", "follows"), CASES)
def test_fish_completes(line: str, follows: set[str], place: Path) -> None:
    assert _fish(line, place) == follows


@pytest.mark.parametrize(
    ("line", "follows"),
    [
        ("deepfake train model=", {f"model={name}" for name in MODELS}),
        ("deepfake train -m model=cnn,cnn_l", {"model=cnn,cnn_lstm"}),
    ],
)
def test_fish_completes_choices(line: str, follows: set[str], place: Path) -> None:
    assert _fish(line, place) == follows


def test_zsh_reads_its_script(place: Path) -> None:
    # Its completion works in a terminal only.
    told = _shell("zsh", 'autoload -U compinit; compinit -u -D; eval "$(cat script)"; echo ${_comps[deepfake]}', place)
    assert told == {"_shtab_deepfake"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_verb_is_completed(shell: str) -> None:
    text = script(shell)
    assert [verb for verb in VERBS if verb not in text] == []
