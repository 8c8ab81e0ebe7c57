"""``deepfake <verb>``: the commands beside training, and training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from deepfake import __version__
from deepfake.commands import VERBS, add_arguments_of
from deepfake.errors import UserError, nearest
from deepfake.hydra_app import absolute_config_path, guarded, guarded_call
from deepfake.installation import CONF


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point of the ``deepfake`` command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded_call(lambda: _dispatch(words))


def _dispatch(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="deepfake",
        description="Deepfake detection: train, evaluate, predict, compare, run again.",
        epilog="\n".join(f"  {verb:<12} {text}" for verb, text in VERBS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("verb", metavar="VERB", help="one of those below; deepfake VERB --help says more")
    if not words or words[0].startswith("-"):
        parser.parse_args(words)
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        raise UserError(f"{verb!r} is no command of deepfake", nearest(verb, VERBS))
    if verb == "train":
        # Hydra reads the command line itself, its own flags and --help included.
        return _start_training(rest)
    parser = argparse.ArgumentParser(prog=f"deepfake {verb}", description=VERBS[verb])
    return add_arguments_of(verb, parser).main(parser.parse_intermixed_args(rest))


def _start_training(words: Sequence[str]) -> int:
    """What ``python train.py <words>`` does, from any folder.

    Args:
        words: Hydra's flags and overrides. ``--config-path`` counts from the working directory.

    Returns:
        The exit status, as :func:`guarded`.
    """
    import hydra

    from deepfake.commands.train import train

    typed = sys.argv
    sys.argv = [typed[0], *absolute_config_path(words)]
    try:
        return guarded(hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(train))
    finally:
        sys.argv = typed


if __name__ == "__main__":
    sys.exit(main())
