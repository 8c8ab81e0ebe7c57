"""``python -m deepfake.serving FOLDER``: an exported folder at the service of others, without the rest of the project.

What it takes are the packages of the ``Dockerfile``: no torch, no Hydra, no MLflow."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deepfake.errors import UserError
from deepfake.serving.starting import add_words, open_exported, serve


def main() -> int:
    """Serve until told to stop; returns the exit status, 2 for a mistake."""
    parser = argparse.ArgumentParser(prog="python -m deepfake.serving", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what deepfake export wrote")
    add_words(parser)
    arguments = parser.parse_args()
    try:
        serve(
            arguments,
            lambda folder, limits: open_exported(arguments.folder, folder, limits),
            lambda text: print(text, flush=True),
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Before it had begun to answer.
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
