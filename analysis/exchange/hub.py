"""Uploading an export to the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

from httpx2 import RequestError
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from traitscope.utils.errors import UserError, first_line


def check_repo(repo: str) -> None:
    """Raise UserError unless a text is USER/REPO."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--push-to-hub {repo!r}: {first_line(error)}") from None
    if repo.count("/") != 1:
        raise UserError(f"--push-to-hub {repo!r}: write USER/REPO")


def list_upload(folder: Path, files: Sequence[str], repo: str) -> str:
    """Return what an upload would send, in words."""
    return "\n".join(
        [f"would upload to {repo}:", *(f"  {name}  {(folder / name).stat().st_size} bytes" for name in files)]
    )


def upload(folder: Path, files: Sequence[str], repo: str) -> str:
    """Create the repository where it is missing (private: making it public is its owner's to do), upload,
    and return the commit's address.

    Raises:
        UserError: there is no token, no network, or the hub refuses.
    """
    if not get_token():
        raise UserError(
            "no token of the Hugging Face hub: set HF_TOKEN to one that may write, or log in with `hf auth "
            "login`"
        )

    api = HfApi()

    try:
        api.create_repo(repo, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message="Upload trait vectors",
        )
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it") from None
    except HfHubHTTPError as error:
        raise UserError(
            f"the hub refuses {repo}: {first_line(error)}; check that the token may write there"
        ) from None
    except (RequestError, ConnectionError) as error:
        raise UserError(
            f"cannot reach the hub: {first_line(error)}; the export is written, so upload it when there is "
            "a network"
        ) from None

    return commit.commit_url
