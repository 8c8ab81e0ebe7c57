"""What a user names, to files in order."""

from __future__ import annotations

from pathlib import Path

from deepfake.commands.inputs import expand_inputs


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_files_come_in_the_order_named(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a.jpg")
    found = expand_inputs([str(tmp_path / "b.mp4"), str(tmp_path / "a.jpg"), str(tmp_path / "b.mp4")])
    assert [(one.path.name, one.kind) for one in found] == [("b.mp4", "video"), ("a.jpg", "image"), ("b.mp4", "video")]


def test_a_folder_gives_its_videos_and_images_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "z.mp4", "notes.txt", "inner/a.png", ".hidden.mp4")
    assert [one.path.relative_to(tmp_path).as_posix() for one in expand_inputs([str(tmp_path)])] == [
        "inner/a.png",
        "z.mp4",
    ]


def test_a_glob_gives_its_matches_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "2.mp4", "1.mp4", "1.txt")
    assert [one.path.name for one in expand_inputs([f"{tmp_path}/*.mp4"])] == ["1.mp4", "2.mp4"]


def test_a_file_whose_name_looks_like_a_glob_is_itself(tmp_path: Path) -> None:
    touch(tmp_path, "take[1].mp4", "take1.mp4")
    assert [one.path.name for one in expand_inputs([str(tmp_path / "take[1].mp4")])] == ["take[1].mp4"]


def test_what_leads_nowhere_keeps_its_place_with_a_reason(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt", "empty/x.txt")
    named = ["missing.mp4", "a.txt", "empty", "*.avi"]
    reasons = [one.reason for one in expand_inputs([str(tmp_path / name) for name in named])]
    assert reasons == ["not_found", "unsupported", "nothing_inside", "not_found"]
