"""A folder to the Hugging Face Hub, or to what HF_ENDPOINT names in its place. Knows no run."""

from __future__ import annotations

import re
from pathlib import Path

from deepfake.errors import UserError, first_line

_LOG_IN = "set HF_TOKEN, or log in with hf auth login; a token that may write comes from your settings on the Hub"
#: What the Hub takes: no more than 96 characters, - and . neither first nor last.
_NAME = re.compile(r"(?=.{3,96}$)\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)


def find_token() -> str:
    """The token of this machine's user, from where huggingface_hub looks for it.

    Raises:
        UserError: There is none.
    """
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise UserError("there is no token for the Hugging Face Hub", _LOG_IN)
    return token


def check_name(name: str) -> None:
    """Make sure that a repository can be called so.

    Raises:
        UserError: It cannot.
    """
    if not _NAME.fullmatch(name) or "--" in name or ".." in name:
        raise UserError(f"{name!r} names no repository", "write it as user/name: letters, digits, - _ and . between")


def upload(folder: Path, name: str, token: str, *, private: bool = False) -> str:
    """Upload a folder in one commit, into a repository that is made where there is none.

    Args:
        folder: All that is in it but hidden files.
        name: ``user/name``.
        token: May write there.
        private: Whether a repository that is made is private; one that is there stays as it is.

    Returns:
        Its address.

    Raises:
        UserError: The Hub refuses, or does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=token)
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="Upload a detector exported by deepfake-sweeps",
            ignore_patterns=[".*"],
        )
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = _LOG_IN if status in (401, 403) else "try again later; what was uploaded is not uploaded again"
        raise UserError(f"{api.endpoint} refuses {name} with status {status}: {first_line(error)}", hint) from error
    except Exception as error:  # what its HTTP library raises is not promised
        raise UserError(
            f"{api.endpoint} does not answer: {first_line(error)}", "look at the network, then try again"
        ) from error
    return str(address)
