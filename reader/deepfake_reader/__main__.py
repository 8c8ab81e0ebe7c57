"""``python -m deepfake_reader FOLDER FILE…``."""

import sys

from deepfake.reading.cli import main

if __name__ == "__main__":
    sys.exit(main())
