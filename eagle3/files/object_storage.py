"""Objects in S3-compatible storage: ranges are read ahead in threads, files written whole.

obstore transfers them. Endpoint, region and credentials are boto3's (`AWS_ENDPOINT_URL`, `~/.aws`,
an instance's role), as for Snakemake's plugin. Both libraries come with the extra `s3` and are
imported when an object is opened.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from eagle3.errors import UserError
from eagle3.files.artifact import REMAKE

SCHEME = "s3://"
REQUESTS = 16  # concurrent requests of one process
ATTEMPTS = 6  # of a request and of the transfer of its response
CONNECT = timedelta(seconds=10)
SILENCE = timedelta(seconds=60)  # in the middle of a response
TRANSFER = timedelta(hours=1)  # of one response, however large
LEAST_PART, MOST_PARTS = 8 * 2**20, 9_000  # bytes of a part and number of parts of an upload


class ObjectFile:
    """Reads ranges of one object as it was when it was opened. Safe to use from several threads.

    Prefetched ranges are kept until they are read, so the caller bounds the memory.
    """

    def __init__(self, address: str) -> None:
        """Raises UserError if there is no such object or it may not be read."""
        self.name = address
        bucket, self._key = split_address(address)
        self._store = store(bucket)
        with _as_user_error(address):
            metadata = self._store.head(self._key)
        self.size, self._tag = int(metadata["size"]), metadata["e_tag"]
        self._prefetched: dict[tuple[int, int], Future[memoryview]] = {}
        self._lock = threading.Lock()

    def read(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        """Fill each buffer with the object's bytes from its offset on; all are requested at once.

        Raises UserError if the object is gone, was replaced, or is shorter.
        """
        wanted = [(offset, buffer) for offset, buffer in pieces if len(buffer)]
        responses = [self._submit(offset, len(buffer), keep=False) for offset, buffer in wanted]
        for (_, buffer), response in zip(wanted, responses, strict=True):
            buffer[:] = response.result()

    def will_need(self, spans: Sequence[tuple[int, int]]) -> None:
        """Prefetch ranges (first byte, bytes) that are read later; returns at once."""
        for offset, size in spans:
            if size:
                self._submit(offset, size, keep=True)

    def _submit(self, offset: int, size: int, keep: bool) -> Future[memoryview]:
        """The future bytes of a range, from an earlier prefetch if there was one."""
        with self._lock:
            response = self._prefetched.get((offset, size))
            if response is None:
                response = _requests().submit(self._fetch, offset, size)
                if keep:
                    self._prefetched[offset, size] = response
            elif not keep:
                del self._prefetched[offset, size]
        return response

    def _fetch(self, offset: int, size: int) -> memoryview:
        """One range of the opened version of the object."""
        options = {"range": (offset, offset + size), "if_match": self._tag}
        with _as_user_error(self.name):
            data = memoryview(self._store.get(self._key, options=options).bytes())
        if len(data) < size:  # a range beyond the end returns what there is
            raise UserError(f"{self.name}: ends too early: {REMAKE}")
        return data


def upload(path: Path, address: str) -> None:
    """Write a file as an object, which appears under its address only when it is complete.

    Raises UserError if it cannot be written.
    """
    bucket, key = split_address(address)
    client = store(bucket)
    # S3 takes an object in 10,000 parts at most
    part = max(LEAST_PART, -(-path.stat().st_size // MOST_PARTS))
    with _as_user_error(address, missing="there is no such bucket"):
        client.put(key, path, chunk_size=part)


def download(address: str, path: Path) -> None:
    """Write an object to a file. Raises UserError if it cannot be read."""
    bucket, key = split_address(address)
    client = store(bucket)
    with _as_user_error(address), open(path, "wb") as out:
        for part in client.get(key):
            out.write(part)


def is_object(address: Path | str) -> bool:
    """Whether an address names an object, not a local file."""
    return isinstance(address, str) and address.startswith(SCHEME)


def split_address(address: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key. Raises UserError if one of them is missing."""
    bucket, _, key = address.removeprefix(SCHEME).partition("/")
    if not address.startswith(SCHEME) or not bucket or not key:
        raise UserError(f"{address!r} is not the address of an object; must be s3://bucket/key")
    return bucket, key


def remove_all(address: str) -> int:
    """Remove every object below s3://bucket/folder; return how many there were.

    Raises UserError if the store does not answer or forbids it.
    """
    bucket, folder = split_address(address)
    removed = 0
    with _as_user_error(address):
        for objects in store(bucket).list(prefix=f"{folder}/"):
            store(bucket).delete([entry["path"] for entry in objects])
            removed += len(objects)
    return removed


@lru_cache
def store(bucket: str) -> Any:
    """The one client of a bucket in this process; it may be used from several threads.

    Raises UserError if the extra is not installed or boto3 finds no credentials.
    """
    try:
        import boto3
        import botocore.session
        from obstore.auth.boto3 import Boto3CredentialProvider
        from obstore.store import S3Store
    except ModuleNotFoundError:
        raise UserError(
            "s3:// addresses need the extra `s3`: pip install -c envs/constraints.txt -e '.[s3]'"
        ) from None
    core = botocore.session.get_session()
    session = boto3.Session(botocore_session=core)
    client_meta = session.client("s3").meta
    try:
        credentials = Boto3CredentialProvider(session)
    except ValueError:
        raise UserError(f"{SCHEME}{bucket}: there are no credentials; see boto3's manual") from None
    options: Any = {
        "allow_http": True,
        "connect_timeout": CONNECT,
        "read_timeout": SILENCE,
        "timeout": TRANSFER,
    }
    if bundle := core.get_config_variable("ca_bundle"):  # for a private certificate authority
        options["root_certificate"] = Path(bundle).read_bytes()
    return S3Store(
        bucket,
        endpoint=client_meta.endpoint_url,
        region=client_meta.region_name,
        credential_provider=credentials,
        client_options=options,
        # also for an interrupted transfer, which continues where it stopped
        retry_config={"max_retries": ATTEMPTS - 1, "retry_timeout": TRANSFER},
    )


@lru_cache(maxsize=1)
def _requests() -> ThreadPoolExecutor:
    """The threads of this process that wait for responses."""
    return ThreadPoolExecutor(REQUESTS, thread_name_prefix="s3")


@contextmanager
def _as_user_error(address: str, missing: str = f"no such object: {REMAKE}") -> Iterator[None]:
    """Turn what the client raises into a UserError. `missing`: the text if there is none."""
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError:
        sentence = missing
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        sentence = "access is denied; check the credentials and the bucket's policy"
    except exceptions.BaseError as fault:  # its first part; a Rust structure follows
        reason = " ".join(str(fault).partition("Debug source")[0].split())
        sentence = f"cannot be reached ({reason})"
        # a transfer that resumes after a break has no exception of its own
        if isinstance(fault, exceptions.PreconditionError) or "precondition failure" in reason:
            sentence = "was replaced while it was being read: start the job again"
    else:
        return
    raise UserError(f"{address}: {sentence}")
