"""Objects in S3-compatible storage: ranges read ahead in threads, whole files written.

Endpoint, region and credentials are boto3's own (`AWS_ENDPOINT_URL`, `~/.aws`, an instance's role):
nothing here knows them. boto3 comes with the extra `s3` and is imported when an object is opened.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from eagle3.artifact import REMAKE
from eagle3.errors import UserError

SCHEME = "s3://"
REQUESTS = 16  # ranges asked for at once by one process
ATTEMPTS = 6  # of a request, and of the transfer of its answer
TRANSFER_PAUSE = 0.2  # seconds after a first broken transfer, twice as long after each other one
REFUSALS = {
    "403": "access is denied; check the credentials and the bucket's policy",
    "404": f"no such object: {REMAKE}",
    "412": "was replaced while it was being read: start the job again",
    "416": f"ends too early: {REMAKE}",
}


class ObjectFile:
    """Reads ranges of one object as it was when it was opened. Safe to use from several threads.

    What was announced is kept until it is read: at most what the caller announces ahead.
    """

    def __init__(self, address: str) -> None:
        """Raises UserError if there is no such object or it may not be read."""
        self.name = address
        self._bucket, self._key = split_address(address)
        with _told(address):
            found = client().head_object(Bucket=self._bucket, Key=self._key)
        self.size, self._tag = int(found["ContentLength"]), found["ETag"]
        self._coming: dict[tuple[int, int], Future[bytearray]] = {}
        self._lock = threading.Lock()

    def read(self, pieces: Sequence[tuple[int, memoryview]]) -> None:
        """Fill each buffer with the object's bytes from its place on; all are asked for at once.

        Raises UserError if the object is gone, was replaced, or is shorter.
        """
        wanted = [(place, into) for place, into in pieces if len(into)]
        coming = [self._ask(place, len(into), keep=False) for place, into in wanted]
        for (_, into), answer in zip(wanted, coming, strict=True):
            into[:] = answer.result()

    def will_need(self, spans: Sequence[tuple[int, int]]) -> None:
        """Ask for ranges (first byte, bytes) that are read later; returns at once."""
        for place, size in spans:
            if size:
                self._ask(place, size, keep=True)

    def _ask(self, place: int, size: int, keep: bool) -> Future[bytearray]:
        """The answer to come, that of an earlier announcement if there is one."""
        with self._lock:
            answer = self._coming.get((place, size))
            if answer is None:
                answer = _requests().submit(self._fetch, place, size)
                if keep:
                    self._coming[place, size] = answer
            elif not keep:
                del self._coming[place, size]
        return answer

    def _fetch(self, place: int, size: int) -> bytearray:
        """One range. boto3 repeats a failed request, but not a transfer that breaks off."""
        from botocore.exceptions import (
            IncompleteReadError,
            ReadTimeoutError,
            ResponseStreamingError,
        )

        with _told(self.name):
            for attempt in range(ATTEMPTS):
                try:
                    return self._transfer(place, size)
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                    if attempt + 1 == ATTEMPTS:
                        raise
                    time.sleep(TRANSFER_PAUSE * 2**attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _transfer(self, place: int, size: int) -> bytearray:
        answer = client().get_object(
            Bucket=self._bucket,
            Key=self._key,
            Range=f"bytes={place}-{place + size - 1}",
            IfMatch=self._tag,
        )
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            chunk = answer["Body"].read(min(len(rest), 2**20))
            if not chunk:  # a range that reaches beyond the end is answered with what there is
                raise UserError(f"{self.name}: ends too early: {REMAKE}")
            rest[: len(chunk)] = chunk
            rest = rest[len(chunk) :]
        return data


def upload(path: Path, address: str) -> None:
    """Write a file as an object, which appears under its address only when it is whole.

    Raises UserError if it cannot be written.
    """
    bucket, key = split_address(address)
    from boto3.exceptions import S3UploadFailedError

    with _told(address):
        try:
            client().upload_file(str(path), bucket, key)
        except S3UploadFailedError as fault:
            raise UserError(f"{address}: cannot be written ({_one_line(fault)})") from None


def download(address: str, path: Path) -> None:
    """Write an object to a file. Raises UserError if it cannot be read."""
    bucket, key = split_address(address)
    with _told(address):
        client().download_file(bucket, key, str(path))


def is_object(address: Path | str) -> bool:
    """Whether an address names an object and no local file."""
    return isinstance(address, str) and address.startswith(SCHEME)


def split_address(address: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key. Raises UserError if one of them is missing."""
    bucket, _, key = address.removeprefix(SCHEME).partition("/")
    if not address.startswith(SCHEME) or not bucket or not key:
        raise UserError(f"{address!r} is no address of an object; must be s3://bucket/key")
    return bucket, key


@lru_cache(maxsize=1)
def client() -> Any:
    """The one client of this process; it may be used from several threads.

    Raises UserError if boto3 is not installed.
    """
    try:
        import boto3
        from botocore.config import Config
    except ModuleNotFoundError:
        raise UserError(
            "s3:// addresses need the extra `s3`: pip install -c envs/constraints.txt -e '.[s3]'"
        ) from None
    return boto3.client(
        "s3",
        config=Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},  # waits in between
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=REQUESTS,
            # other servers than Amazon's often know no checksums; documents carry their own
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@lru_cache(maxsize=1)
def _requests() -> ThreadPoolExecutor:
    """The threads of this process that wait for answers."""
    return ThreadPoolExecutor(REQUESTS, thread_name_prefix="s3")


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Put what the client raises into one sentence."""
    client()  # its own sentence if boto3 is not installed
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as fault:
        status = str(fault.response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
        sentence = REFUSALS.get(status, f"the storage refuses it ({_one_line(fault)})")
        raise UserError(f"{address}: {sentence}") from None
    except BotoCoreError as fault:
        raise UserError(f"{address}: cannot be reached ({_one_line(fault)})") from None


def _one_line(fault: Exception) -> str:
    return " ".join(str(fault).split())
