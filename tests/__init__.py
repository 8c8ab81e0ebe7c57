from pathlib import Path

#: The repository's folder.
PROJECT = Path(__file__).resolve().parents[1]
