from __future__ import annotations

import argparse
import shlex
import subprocess
import sys

import pytest

from deepfake.commands import VERBS, add_arguments_of
from deepfake.hydra_app import PIPE_CLOSED
from tests import PROJECT

OTHERS = [verb for verb in VERBS if verb != "train"]


@pytest.mark.parametrize("verb", OTHERS)
def test_a_verb_shows_two_examples_that_it_takes(verb: str) -> None:
    parser = argparse.ArgumentParser(prog=f"deepfake {verb}", exit_on_error=False)
    module = add_arguments_of(verb, parser)
    assert len(module.EXAMPLES) >= 2
    for command, what in module.EXAMPLES:
        assert command in parser.format_help()
        assert what in parser.format_help()
        # What is handed to a shell's eval, or to a file, is a command of ours within.
        words = shlex.split(command.removeprefix('eval "$(').removesuffix(')"').partition(" > ")[0])
        assert words[:2] == ["deepfake", verb]
        parser.parse_intermixed_args(words[2:])


def test_training_shows_examples_too() -> None:
    done = subprocess.run(
        [sys.executable, "train.py", "--help"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("  python train.py ") >= 2
    assert "== Configuration groups ==" in done.stdout


def test_a_reader_that_leaves_early_is_no_crash() -> None:
    process = subprocess.Popen(
        [sys.executable, "train.py", "--cfg", "job"], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read().decode()
    assert (process.wait(), said) == (PIPE_CLOSED, "")
