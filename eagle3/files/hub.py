"""The Hugging Face hub: names, downloads whose faults become one sentence, and cached files."""

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
    """A folder, named by the commit, with the files of hub:<owner>/<name> that match `allow`.

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

    return _download(download, place, key, revision)


def fetched_file(place: str, key: str, name: str) -> Path:
    """One file of hub:<owner>/<name>, as `fetched_folder`."""
    from huggingface_hub import hf_hub_download

    return _download(lambda: hf_hub_download(place.removeprefix(HUB), name), place, key, None)


def cached_file(place: str, name: str, revision: str | None = None) -> Path | None:
    """A file of hub:<owner>/<name> if it is in the cache; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(place.removeprefix(HUB), name, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _download(download: Callable[[], str], place: str, key: str, revision: str | None) -> Path:
    from huggingface_hub import errors

    try:
        return Path(download())
    except errors.GatedRepoError:
        remedy = "accept its licence on its page, then run `hf auth login` or set HF_TOKEN"
        raise UserError(f"{key}: {place} is gated: {remedy}") from None
    except errors.RepositoryNotFoundError:
        remedy = "check the name; for a private one run `hf auth login` or set HF_TOKEN"
        raise UserError(f"{key}: the hub has no {place}, or it is private: {remedy}") from None
    except (OSError, errors.HFValidationError) as fault:  # most of the hub's are OSErrors
        name = place.removeprefix(HUB)
        version = f" (revision {revision})" if revision else ""
        raise UserError(
            f"{key}: cannot fetch {place}{version}: {first_line(fault)}; without a network, run "
            f"`hf download {name}` where there is one, and give the folder or set HF_HOME"
        ) from None
