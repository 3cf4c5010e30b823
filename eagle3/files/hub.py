"""The Hugging Face hub: its names, downloads that fail in one sentence, and what lies here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from eagle3.errors import UserError, first_line

HUB = "hub:"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # <owner>/<name>


def fetched_folder(
    place: str,
    key: str,
    revision: str | None,
    allow: Sequence[str],
    ignore: Sequence[str] = (),
) -> Path:
    """Files of hub:<owner>/<name> that match `allow`, in a folder that is named by its commit.

    Raises UserError that names the configuration key `key`.
    """
    from huggingface_hub import snapshot_download

    def download() -> str:
        return snapshot_download(
            place.removeprefix(HUB),
            revision=revision,
            allow_patterns=list(allow),
            ignore_patterns=list(ignore),
        )

    return _fetched(download, place, key, revision)


def fetched_file(place: str, key: str, name: str) -> Path:
    """One file of hub:<owner>/<name>, as `fetched_folder`."""
    from huggingface_hub import hf_hub_download

    return _fetched(lambda: hf_hub_download(place.removeprefix(HUB), name), place, key, None)


def cached_file(place: str, name: str, revision: str | None = None) -> Path | None:
    """A file of hub:<owner>/<name> if an earlier download left it here; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(place.removeprefix(HUB), name, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _fetched(download: Callable[[], str], place: str, key: str, revision: str | None) -> Path:
    from huggingface_hub import errors

    try:
        return Path(download())
    except errors.GatedRepoError:
        remedy = "accept its licence on its page, then run `hf auth login` or set HF_TOKEN"
        raise UserError(f"{key}: {place} is gated: {remedy}") from None
    except errors.RepositoryNotFoundError:
        remedy = "check the name; for a private one run `hf auth login` or set HF_TOKEN"
        raise UserError(f"{key}: the hub has no {place}, or it is private: {remedy}") from None
    except (OSError, errors.HFValidationError) as fault:  # most of the hub's own are OSErrors
        name = place.removeprefix(HUB)
        asked = f" (revision {revision})" if revision else ""
        raise UserError(
            f"{key}: cannot fetch {place}{asked}: {first_line(fault)}; without a network, run "
            f"`hf download {name}` where there is one, and give the folder or set HF_HOME"
        ) from None
