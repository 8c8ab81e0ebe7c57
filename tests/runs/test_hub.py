"""Folders uploaded to a stand-in of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.errors import UserError
from deepfake.runs.hub import check_name, find_token, upload
from tests.hub import standing_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "exported"
    (made / "faces").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "faces" / "net.onnx").write_bytes(bytes(range(256)))
    (made / ".hidden").write_text("not uploaded")
    return made


@pytest.mark.parametrize("private", [False, True])
def test_all_of_a_folder_is_uploaded_once_more_where_it_is_there(
    folder: Path, private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standing_in("hf_right") as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        address = upload(folder, "somebody/faces", "hf_right", private=private)
        assert address == f"{hub.address}/somebody/faces"
        assert hub.private == {"somebody/faces": private}
        expected = {"config.json": b"{}", "faces/net.onnx": bytes(range(256))}
        assert {name: data for name, data in hub.files["somebody/faces"].items() if name in expected} == expected
        assert ".hidden" not in hub.files["somebody/faces"]
        (folder / "config.json").write_text('{"more": 1}')
        upload(folder, "somebody/faces", "hf_right", private=not private)
        assert hub.files["somebody/faces"]["config.json"] == b'{"more": 1}'
        assert hub.private == {"somebody/faces": private}


def test_a_wrong_token_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in("hf_right") as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        with pytest.raises(UserError, match="refuses somebody/faces with status 401") as told:
            upload(folder, "somebody/faces", "hf_wrong")
        assert "HF_TOKEN" in told.value.hint
        assert not hub.files


def test_a_hub_that_does_not_answer_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9 does not answer"):
        upload(folder, "somebody/faces", "hf_right")


def test_without_a_token_it_is_said_where_one_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="there is no token") as told:
        find_token()
    assert "HF_TOKEN" in told.value.hint


@pytest.mark.parametrize(
    "name", ["faces", "a/b/c", "some body/faces", "somebody/", "/faces", "-a/b", "a/b..c", "a/" + "b" * 99]
)
def test_what_names_no_repository_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="names no repository"):
        check_name(name)
    check_name("somebody/cnn_gru-1.0")
