"""Uploading an export to a hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from grade_lightning.exporting.files import files_of
from grade_lightning.exporting.weights import BASE
from grade_lightning.models.adapters import CONFIG, name_base

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token with write access (https://huggingface.co/settings/tokens)"


def check_push(repository: str) -> None:
    """Raise ValueError where an upload cannot succeed: no name for a repository, or nobody is logged in.  No request is made."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"push={repository} is no name of a repository (USER/NAME): {error}") from error
    if repository.count("/") != 1:
        raise ValueError(f"push={repository} is no name of a repository: give USER/NAME or ORGANISATION/NAME")
    if get_token() is None:
        raise ValueError(f"push={repository} needs a token of the hub and there is none: {LOG_IN}")


def push(out: Path, repository: str) -> str:
    """Upload a folder; a repository that is not there yet is made, and is private until its owner opens it.

    Returns:
        Where it can be seen.

    Raises:
        ValueError: whatever kept the hub from having it; the folder stays.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        url = api.create_repo(repository, private=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as staged:
            api.upload_folder(
                repo_id=repository, folder_path=_as_uploaded(out, Path(staged), repository), commit_message="Export of GRADE-Lightning"
            )  # fmt: skip
    except Exception as error:  # of the hub's client, its HTTP client, its storage: each has classes of its own
        raise ValueError(f"the upload to {repository} at {api.endpoint} failed ({_reason(error)}). The export is in {out}") from error
    return str(url)


def _as_uploaded(out: Path, staged: Path, repository: str) -> Path:
    """The folder to upload: an adapter whose base is a folder of this machine names the copy in the repository instead, as a person
    reads it.  No library loads that by itself, and each refuses it at once; the card's lines do."""
    if not (out / BASE).is_dir():
        return out
    for name in files_of(out):
        place = staged / name
        place.parent.mkdir(exist_ok=True)
        place.symlink_to((out / name).resolve())
    (staged / CONFIG).unlink()
    (staged / CONFIG).write_bytes((out / CONFIG).read_bytes())
    name_base(staged, f"{repository}/{BASE}")
    return staged


def _reason(error: BaseException) -> str:
    """What happened, in a line, and what helps where that is known."""
    from huggingface_hub.errors import HfHubHTTPError

    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    said = " ".join(str(error).split())[:300] or type(error).__name__
    if status == 401:
        return f"the token is not accepted: {LOG_IN}; the hub said: {said}"
    if status == 403:
        return f"the token may not write there: take one with write access, or another owner; the hub said: {said}"
    cause = error.__cause__
    return f"{said}: {_reason(cause)}" if isinstance(error, RuntimeError) and cause is not None else said
