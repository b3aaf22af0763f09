"""Objects on S3 or a server that speaks it, through boto3.

Credentials come from boto3's own chain (environment, profile, role) and are never put into a message.
"""

import time
from collections.abc import Callable
from datetime import UTC
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from tasks.stores.errors import ObjectConflict, ObjectNotFound, StorageError
from tasks.stores.objects import Entry, check_key

T = TypeVar("T")

_CONFLICT = 409  # another conditional write of this key is under way; S3 asks to try again
_PRECONDITION_FAILED = 412
_RETRIES = 5
_TRIES = 5
_PAUSE_SECONDS = 0.05

_REMEDIES = {
    "NoSuchBucket": "create the bucket or correct its name",
    "AccessDenied": "the credentials need s3:GetObject, s3:PutObject and s3:ListBucket here",
    "403": "the credentials need s3:GetObject, s3:PutObject and s3:ListBucket here",
    "InvalidAccessKeyId": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of this server",
    "SignatureDoesNotMatch": "set AWS_SECRET_ACCESS_KEY and the region of this server",
    "ExpiredToken": "sign in again: the session token has expired",
    "EntityTooLarge": "an object holds at most 5 GiB; use a method with low-rank factors",
}


class S3Store:
    """Objects of one bucket below a prefix."""

    def __init__(self, uri: str, endpoint_url: str | None = None) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise StorageError(f"store '{uri}' names no bucket: give s3://bucket/prefix")
        if endpoint_url and "@" in endpoint_url:
            raise StorageError("the S3 endpoint holds credentials: give them as AWS_ACCESS_KEY_ID and so on")
        self.bucket = bucket
        self.prefix = check_key(prefix.strip("/")) + "/" if prefix.strip("/") else ""
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")
        config = Config(
            retries={"mode": "standard", "max_attempts": _RETRIES},
            connect_timeout=10,
            read_timeout=60,
            # Servers that speak S3 know neither host names per bucket nor, often, the newer checksums;
            # what is stored here carries its own sha256.
            s3={"addressing_style": "path" if endpoint_url else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            self._client = boto3.Session().client("s3", endpoint_url=endpoint_url, config=config)
        except (BotoCoreError, ValueError) as error:
            raise StorageError(
                f"store '{self.uri}' cannot be opened ({type(error).__name__}): "
                "check the endpoint, AWS_REGION and AWS_PROFILE"
            ) from error

    def get(self, key: str) -> tuple[bytes, str]:
        full = self._full(key)

        def read() -> tuple[bytes, str]:
            answer = self._client.get_object(Bucket=self.bucket, Key=full)
            return answer["Body"].read(), answer["ETag"]

        return self._call(key, read)

    def put(self, key: str, data: bytes) -> str:
        full = self._full(key)
        return self._call(key, lambda: str(self._client.put_object(Bucket=self.bucket, Key=full, Body=data)["ETag"]))

    def put_if_absent(self, key: str, data: bytes) -> str:
        full = self._full(key)
        return self._put_on_condition(
            key,
            data,
            None,
            lambda: self._client.put_object(Bucket=self.bucket, Key=full, Body=data, IfNoneMatch="*"),
        )

    def put_if_match(self, key: str, data: bytes, etag: str) -> str:
        full = self._full(key)
        return self._put_on_condition(
            key,
            data,
            etag,
            lambda: self._client.put_object(Bucket=self.bucket, Key=full, Body=data, IfMatch=etag),
        )

    def exists(self, key: str) -> bool:
        full = self._full(key)
        try:
            self._call(key, lambda: self._client.head_object(Bucket=self.bucket, Key=full))
        except ObjectNotFound:
            return False
        return True

    def delete(self, key: str) -> None:
        full = self._full(key)
        self._call(key, lambda: self._client.delete_object(Bucket=self.bucket, Key=full))

    def entries(self, prefix: str) -> list[Entry]:
        return self._listed(prefix, {})

    def _listed(self, prefix: str, more: dict[str, str]) -> list[Entry]:
        def read() -> list[Entry]:
            pages = self._client.get_paginator("list_objects_v2")
            found = pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix, **more)
            return [
                Entry(item["Key"].removeprefix(self.prefix), item["Size"], item["LastModified"].astimezone(UTC))
                for page in found
                for item in page.get("Contents", [])
            ]

        return sorted(self._call(prefix, read), key=lambda entry: entry.key)

    def list(self, prefix: str, after: str = "") -> list[str]:
        found = self._listed(prefix, {"StartAfter": self.prefix + after} if after else {})
        return [entry.key for entry in found if entry.key > after]

    def _full(self, key: str) -> str:
        return self.prefix + check_key(key)

    def _put_on_condition(self, key: str, data: bytes, expected: str | None, put: Callable[[], dict[str, Any]]) -> str:
        """A conditional write whose conflicts are settled by reading: bytes that are ours mean success."""
        for attempt in range(_TRIES):
            try:
                return str(put()["ETag"])
            except ClientError as error:
                status = _status(error)
                if status not in (_CONFLICT, _PRECONDITION_FAILED, 404) or _code(error) == "NoSuchBucket":
                    raise self._explain(key, error) from error
            except BotoCoreError as error:
                raise self._explain(key, error) from error
            found, etag = self._get_or_none(key)
            if found == data:
                return str(etag)
            if status != _CONFLICT or etag != expected:
                break
            time.sleep(_PAUSE_SECONDS * 2**attempt)
        raise ObjectConflict(f"object '{key}' in '{self.uri}' was written by another writer")

    def _get_or_none(self, key: str) -> tuple[bytes | None, str | None]:
        try:
            return self.get(key)
        except ObjectNotFound:
            return None, None

    def _call(self, key: str, function: Callable[[], T]) -> T:
        try:
            return function()
        except (ClientError, BotoCoreError) as error:
            raise self._explain(key, error) from error

    def _explain(self, key: str, error: ClientError | BotoCoreError) -> StorageError:
        """One line with bucket, key and remedy; the server's own text is left out, it may repeat the request."""
        where = f"object '{key}' in '{self.uri}'"
        if isinstance(error, ClientError):
            code = _code(error)
            if _status(error) == 404 and code != "NoSuchBucket":
                return ObjectNotFound(f"no {where}")
            remedy = _REMEDIES.get(code, "look at the server and repeat")
            return StorageError(f"{where}: the server answered {_status(error)} {code}: {remedy}")
        if isinstance(error, NoCredentialsError):
            return StorageError(f"{where}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        return StorageError(f"{where}: {type(error).__name__}: check the endpoint and the network, then repeat")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
