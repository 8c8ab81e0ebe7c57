"""Capsules hold what a run takes to be run again; one that is cut, altered or hostile is refused and leaves nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from deepfake.errors import UserError
from deepfake.runs.capsules import FORMAT, LISTING, Capsule, is_capsule, open_capsule
from deepfake.runs.packing import lock_text
from deepfake.tracking.run_record import RunRecord
from tests.runs.making import Members, packed, rewritten, whole_run


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return whole_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def capsule(record: RunRecord, tmp_path: Path) -> Path:
    return packed(record, tmp_path / "a.capsule.zip", weights=True)


def refused(file: Path, tmp_path: Path) -> str:
    """What is said, once it is sure that nothing was written."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        open_capsule(file, tmp_path / "cache")
    assert sorted(tmp_path.rglob("*")) == before
    assert caught.value.hint
    return caught.value.message


def opened(file: Path, tmp_path: Path) -> Capsule:
    return open_capsule(file, tmp_path / "cache")


def test_it_comes_out_as_it_went_in(record: RunRecord, capsule: Path, tmp_path: Path) -> None:
    found = opened(capsule, tmp_path)
    assert found.record.config() == record.config()
    assert found.record.metrics() == record.metrics()
    assert found.record.predictions().equals(record.predictions())
    assert found.record.weights().read_bytes() == record.weights().read_bytes()
    assert found.crops is None
    assert found.record.name == "a"
    assert found.folder.is_relative_to(tmp_path / "cache" / "capsules")


def test_the_same_run_makes_the_same_bytes_and_is_unpacked_once(
    record: RunRecord, capsule: Path, tmp_path: Path
) -> None:
    again = packed(record, tmp_path / "b.zip", weights=True)
    assert again.read_bytes() == capsule.read_bytes()
    assert opened(again, tmp_path).folder == opened(capsule, tmp_path).folder
    assert len([*(tmp_path / "cache" / "capsules").iterdir()]) == 1


def test_without_weights_it_has_none(record: RunRecord, tmp_path: Path) -> None:
    bare = opened(packed(record, tmp_path / "bare.zip"), tmp_path)
    assert not bare.record.has("checkpoints/best.safetensors")


def test_the_lock_names_every_package_the_needed_ones_first(record: RunRecord) -> None:
    lines = lock_text(record.provenance()).splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in pins)
    at = lines.index("# What was installed beside it:")
    assert any(line.startswith("torch==") for line in lines[:at])
    assert any(line.startswith("pytest==") for line in lines[at:])
    assert not any(line.startswith("deepfake-sweeps") for line in pins)


@pytest.mark.parametrize(
    ("reference", "meant"), [("x.zip", True), ("a/config.yaml", False), ("best:study", False), ("name", False)]
)
def test_which_references_are_capsules(reference: str, meant: bool) -> None:
    assert is_capsule(reference) is meant


def test_one_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no capsule" in refused(tmp_path / "none.zip", tmp_path)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_one_that_is_cut(capsule: Path, tmp_path: Path, part: float) -> None:
    content = capsule.read_bytes()
    capsule.write_bytes(content[: int(part * len(content))])
    assert "no capsule that can be used" in refused(capsule, tmp_path)


def test_every_altered_byte_is_refused_or_changes_nothing(record: RunRecord, capsule: Path, tmp_path: Path) -> None:
    content = capsule.read_bytes()
    for at in range(0, len(content), max(1, len(content) // 60)):
        capsule.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
        cache = tmp_path / f"cache{at}"
        try:
            found = open_capsule(capsule, cache)
        except UserError:
            assert not cache.exists()
            continue
        # Such as a date in a header, which nobody reads.
        assert found.record.metrics() == record.metrics()


def test_an_entry_before_the_beginning_is_refused(capsule: Path, tmp_path: Path) -> None:
    content = bytearray(capsule.read_bytes())
    # Of the end of the directory, where that begins: all entries seem to lie earlier by as much.
    at = content.rindex(b"PK\x05\x06") + 16
    content[at : at + 4] = (int.from_bytes(content[at : at + 4], "little") + (1 << 20)).to_bytes(4, "little")
    capsule.write_bytes(content)
    assert "no capsule that can be used" in refused(capsule, tmp_path)


def test_a_member_with_another_content(capsule: Path, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        members["run/metrics.json"] = members["run/metrics.json"].replace(b"0.123", b"0.999")

    assert "was altered" in refused(rewritten(capsule, change, sign=False), tmp_path)


def test_one_of_a_newer_format(capsule: Path, tmp_path: Path) -> None:
    said = refused(rewritten(capsule, listing={"format": FORMAT + 1, "version": "9.9"}), tmp_path)
    assert "newer format" in said


@pytest.mark.parametrize(
    "name",
    [
        "../evil.yaml", "run/../../evil.yaml", "/tmp/evil.yaml", "run/evil.py", "run/model.pkl", "evil.pt",
        "code/files/../../evil.py", "code/files/...py/..", "crops/../part.u8", "run\\..\\evil", "run/metrics.json/x",
        "C:/evil.yaml", "ancestors/0/../../evil.safetensors", "run/", "RUN/metrics.json",
    ],
)  # fmt: skip
def test_names_that_no_capsule_has(capsule: Path, tmp_path: Path, name: str) -> None:
    said = refused(rewritten(capsule, lambda members: members.update({name: b"x"})), tmp_path)
    assert "which no capsule does" in said or "no plain file" in said


def test_a_member_that_is_not_listed(capsule: Path, tmp_path: Path) -> None:
    hidden = rewritten(capsule, lambda members: members.update({"code/changes.diff": b"x"}), sign=False)
    assert "does not list" in refused(hidden, tmp_path)


def test_a_listed_member_that_is_lacking(capsule: Path, tmp_path: Path) -> None:
    assert "it lacks" in refused(rewritten(capsule, lambda m: m.pop("run/history.json"), sign=False), tmp_path)
    assert "it lacks" in refused(rewritten(capsule, lambda m: m.pop("run/history.json")), tmp_path)


def test_a_link(capsule: Path, tmp_path: Path) -> None:
    target = tmp_path / "link.zip"
    with zipfile.ZipFile(capsule) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename == "run/metrics.json":
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                content = b"/etc/passwd"
            new.writestr(info, content)
    assert "no plain file" in refused(target, tmp_path)


def test_two_members_of_one_name(capsule: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(capsule, "a") as archive:
        archive.writestr("run/metrics.json", "{}")
    assert "two members" in refused(capsule, tmp_path)


def test_one_that_unfolds_to_a_thousand_times_its_size(capsule: Path, tmp_path: Path) -> None:
    bomb = rewritten(capsule, lambda members: members.update({"code/changes.diff": b"\0" * (64 << 20)}))
    assert bomb.stat().st_size < 1 << 20
    assert "unfolds to" in refused(bomb, tmp_path)


def test_one_whose_headers_lie_about_its_size(capsule: Path, tmp_path: Path) -> None:
    name, content = b"run/history.json", capsule.read_bytes()
    with zipfile.ZipFile(capsule) as archive:
        size = archive.getinfo(name.decode()).file_size
    # The central directory says what is unpacked.
    at = content.rindex(name, 0, content.rindex(b"PK\x05\x06")) - 46
    lying = content[: at + 24] + struct.pack("<I", size + 5000) + content[at + 28 :]
    capsule.write_bytes(lying)
    refused(capsule, tmp_path)


def test_more_members_than_any_capsule_has(capsule: Path, tmp_path: Path) -> None:
    many = {f"code/files/m{i}.py": b"" for i in range(2100)}
    assert "members, more than" in refused(rewritten(capsule, lambda members: members.update(many)), tmp_path)


def test_a_listing_that_is_huge_or_none(capsule: Path, tmp_path: Path) -> None:
    assert "larger than" in refused(rewritten(capsule, listing={"more": "x" * (5 << 20)}), tmp_path)
    assert "none of a capsule" in refused(rewritten(capsule, listing={"kind": "zip"}), tmp_path)
    assert "manifest.json" in refused(rewritten(capsule, listing={"ancestors": "x"}), tmp_path)


RESOLVED = "run/resolved.yaml"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"_target_: deepfake.", b"_target_: os.system # ", "not one of ours"),
        (b"seed: 0", b"seed: ${oc.env:HOME}", "stands for something else"),
        (b"seed: 0", b"seed: !!python/object/apply:os.system [id]", "python/object"),
        (b"seed: 0", b"seed: &x 0\nresume: *x", "alias"),
        (b"seed: 0", b"sead: 0", "unknown key"),
        (b"seed: 0", b"seed: -1", "out of range"),
    ],
)
def test_a_config_that_is_more_than_values_of_ours(
    capsule: Path, tmp_path: Path, old: bytes, new: bytes, said: str
) -> None:
    def change(members: Members) -> None:
        assert old in members[RESOLVED]
        members[RESOLVED] = members[RESOLVED].replace(old, new, 1)

    assert said in refused(rewritten(capsule, change), tmp_path)


def test_a_composed_config_with_objects_in_it(capsule: Path, tmp_path: Path) -> None:
    bad = b"seed: !!python/object/apply:os.system [id]\n"
    assert "python/object" in refused(rewritten(capsule, lambda m: m.update({"run/config.yaml": bad})), tmp_path)


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/harm-was-done",)


@pytest.mark.parametrize("name", ["run/checkpoints/best.safetensors", "run/manifest.parquet", "run/provenance.json"])
def test_a_pickle_in_the_place_of_something_else(capsule: Path, tmp_path: Path, name: str) -> None:
    stream = io.BytesIO()
    pickle.dump(Harm(), stream)
    said = refused(rewritten(capsule, lambda members: members.update({name: stream.getvalue()})), tmp_path)
    assert "no capsule that can be used" in said
    assert not Path("/tmp/harm-was-done").exists()


def test_a_run_that_was_made_by_a_newer_version(capsule: Path, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        made = json.loads(members["run/provenance.json"])
        members["run/provenance.json"] = json.dumps({**made, "format": 99}).encode()

    assert "newer version" in refused(rewritten(capsule, change), tmp_path)


KEY, STEM = "0" * 20, "part-" + "1" * 32
GOOD = {
    "sample_id": "d/00", "status": "ok", "sha256": "x", "bytes": 1, "mtime": 0, "clips": 1, "part": STEM, "offset": 0,
    "shape": [1, 1, 2, 2, 3], "lengths": [1], "first": 0,
}  # fmt: skip


def with_crops(capsule: Path, record: dict[str, object]) -> Path:
    members = {".jsonl": json.dumps(record).encode() + b"\n", ".u8": bytes(12), ".frames": bytes(29)}
    named = {f"crops/{KEY}/{STEM}{suffix}": content for suffix, content in members.items()}
    return rewritten(capsule, lambda found: found.update(named))


def test_crops_are_laid_out_as_a_store(capsule: Path, tmp_path: Path) -> None:
    found = opened(with_crops(capsule, GOOD), tmp_path)
    assert found.crops is not None
    assert found.crops.name == KEY
    assert found.without_data().crops is None


@pytest.mark.parametrize(
    "change",
    [
        {"part": "../../../../etc/passwd"}, {"part": "part-" + "2" * 32}, {"offset": -1}, {"offset": 1}, {"first": 7},
        {"shape": [1, 1, 9, 9, 3]}, {"shape": [-1, -1, 2, 2, 3]}, {"shape": [1]}, {"lengths": [5]}, {"lengths": [0]},
        {"clips": 9}, {"sha256": None}, {"sample_id": 5}, {"part": None},
    ],
)  # fmt: skip
def test_crops_that_lie_elsewhere(capsule: Path, tmp_path: Path, change: dict[str, object]) -> None:
    assert "no capsule that can be used" in refused(with_crops(capsule, {**GOOD, **change}), tmp_path)


@pytest.mark.parametrize(
    "meta", [b"x", b"[]", b'{"spec": {}}', b'{"spec": {}, "shape": [0], "dtype": "float32"}',
             b'{"spec": {}, "shape": [4], "dtype": "load"}'],
)  # fmt: skip
def test_features_that_are_none(capsule: Path, tmp_path: Path, meta: bytes) -> None:
    named = {f"features/{KEY}/features.json": meta, f"features/{KEY}/features.bin": b"x"}
    assert "no capsule that can be used" in refused(rewritten(capsule, lambda m: m.update(named)), tmp_path)


def test_a_disk_without_room(capsule: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake.runs.capsules._SPARE", 1 << 60)
    assert "are free" in refused(capsule, tmp_path)


def test_a_capsule_lists_what_its_members_are(capsule: Path) -> None:
    with zipfile.ZipFile(capsule) as archive:
        listing = json.loads(archive.read(LISTING))
        assert {*listing["members"]} == {*archive.namelist()} - {LISTING}
    assert listing["format"] == FORMAT
    assert listing["data"]["samples"] == 40
