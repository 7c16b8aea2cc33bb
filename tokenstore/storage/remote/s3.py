"""Single requests to S3."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from typing_extensions import override

from tokenstore.storage.remote.access import AsyncFiles
from tokenstore.storage.remote.entries import Entry, Page
from tokenstore.storage.remote.faults import UnsupportedError
from tokenstore.storage.remote.versions import Versions

_etags: ContextVar[list[str] | None] = ContextVar("etags", default=None)
"""The versions that the answers to this task's request tell."""
_LISTING = "tokenstore-listing"
"""The name under which botocore knows what is done to the answers of listings, once a client."""
_TIME = re.compile(rb"<LastModified>[^<]*</LastModified>")
_LONGEST_NAME = 200
"""The characters of a name that a message shows."""


class S3Files(Versions, AsyncFiles):
    """Requests to S3, whose answers tell their files' versions: botocore shows them to whoever registers."""

    def __init__(self, fs: Any) -> None:
        super().__init__(fs)
        self._versions: dict[str, str] = {}
        self._client: Any = None

    @override
    async def read_range(self, key: str, start: int, stop: int) -> bytes:
        client = await self._fs.set_session()
        if client is not self._client:
            self._client = client
            client.meta.events.register("before-call.s3.GetObject", self._before)
            client.meta.events.register("before-parse.s3.GetObject", _leave_out_time)
            client.meta.events.register("after-call.s3.GetObject", self._after)
        return await super().read_range(key, start, stop)

    @override
    async def read_version(self, key: str, start: int, stop: int) -> tuple[bytes, str]:
        etags: list[str] = []
        before = _etags.set(etags)
        try:
            return await self.read_range(key, start, stop), "".join(etags[-1:])
        finally:
            _etags.reset(before)

    def _before(self, params: Any, context: Any, **_: Any) -> None:
        context["tokenstore_path"] = params["url_path"]

    def _after(self, parsed: Any, context: Any, **_: Any) -> None:
        if "ETag" in parsed:
            self._note_version(context.get("tokenstore_path", ""), parsed["ETag"])
            etags = _etags.get()
            if etags is not None:
                etags.append(parsed["ETag"])

    @override
    async def page(self, prefix: str, token: str | None) -> Page:
        bucket, _, below = self._place(prefix)
        if not bucket:
            return await super().page(prefix, token)
        answer, following = await self._answer(bucket, below, token, Delimiter="/")
        entries = []
        for part in answer.get("CommonPrefixes", ()):
            entries.append(Entry(_name(part["Prefix"].removesuffix("/"), below), True, 0, ""))
        for item in answer.get("Contents", ()):
            if item["Key"] != below:  # the empty object that stands for the folder itself
                entries.append(_file(item, _name(item["Key"], below)))
        return Page(entries, following)

    @override
    async def tree(self, prefix: str, token: str | None) -> Page:
        bucket, folder, below = self._place(prefix)
        if not bucket:
            return await super().tree(prefix, token)
        answer, following = await self._answer(bucket, below, token)
        entries = [
            _file(item, _path(item["Key"], below))
            for item in answer.get("Contents", ())
            if not item["Key"].endswith("/")  # an empty object that stands for a folder
        ]
        if folder and token is following is None and not answer.get("Contents"):
            with contextlib.suppress(FileNotFoundError):
                entries.append((await self.entry(prefix))._replace(name=""))
        return Page(entries, following)

    @override
    async def remove(self, key: str, token: str | None) -> str | None:
        bucket, folder, below = self._place(key)
        page = await self.tree(key, token)
        objects = [{"Key": below + entry.name if entry.name else folder} for entry in page.entries]
        if objects:
            client = await self._fs.get_s3(bucket)
            answer = await client.delete_objects(
                Bucket=bucket, Delete={"Objects": objects, "Quiet": True}, **self._fs.req_kw
            )
            for error in answer.get("Errors", ())[:1]:
                raise OSError(f"{error.get('Key')}: was not removed: {error.get('Code')}")
        is_last = page.token is None and (objects or token is not None)
        if is_last and (left := (await self.tree(key, None)).entries):
            raise OSError(f"{left[0].name or key}: was not removed")
        return page.token

    def _place(self, key: str) -> tuple[str, str, str]:
        """Return the bucket of a key, its path there, and what the paths below it begin with."""
        bucket, folder, _ = self._fs.split_path(key)
        return bucket, folder, f"{folder.rstrip('/')}/" if folder else ""

    async def _answer(
        self, bucket: str, below: str, token: str | None, **more: str
    ) -> tuple[Mapping[str, Any], str | None]:
        """Return the server's next part of a listing, and the token of the part behind it."""
        # subtle: s3fs would have a dictionary of a kilobyte for each of all names, and keep them
        await self._fs.set_session()
        client = await self._fs.get_s3(bucket)
        client.meta.events.register("before-parse.s3.ListObjectsV2", _leave_out_times, _LISTING)
        going_on = {} if token is None else {"ContinuationToken": token}
        answer = await client.list_objects_v2(
            Bucket=bucket, Prefix=below, **more, **going_on, **self._fs.req_kw
        )
        following = answer.get("NextContinuationToken") if answer.get("IsTruncated") else None
        if answer.get("IsTruncated") and following is None:
            raise UnsupportedError("the server ends its listing early, and does not say how to go on")
        if following is not None and following == token:
            raise UnsupportedError("the server gives the same part of its listing again and again")
        return answer, following


def _leave_out_time(response_dict: dict[str, Any], **_: Any) -> None:
    """Leave the time of a file out of an answer with its bytes: nobody reads it, and parsing it is slow."""
    response_dict["headers"].pop("last-modified", None)


def _leave_out_times(response_dict: dict[str, Any], **_: Any) -> None:
    """Leave the times of files that have ETags out of an answer: reading them takes most of the CPU time."""
    body = response_dict.get("body")
    if isinstance(body, bytes) and body.count(b"<ETag>") >= body.count(b"<LastModified>"):
        response_dict["body"] = _TIME.sub(b"", body)


def _file(item: Mapping[str, Any], name: str) -> Entry:
    version = item.get("ETag") or str(item.get("LastModified", ""))
    return Entry(name, False, int(item["Size"]), version)


def _name(key: str, folder: str) -> str:
    """Return a key's name in a folder, empty where two slashes follow each other."""
    name = _path(key, folder)
    if "/" in name:
        raise _stray(key, folder)
    return name


def _path(key: str, folder: str) -> str:
    """Return a key's path below a folder."""
    if not key.startswith(folder):
        raise _stray(key, folder)
    return key.removeprefix(folder)


def _stray(key: str, folder: str) -> UnsupportedError:
    return UnsupportedError(f"the server lists {key[:_LONGEST_NAME]!r}, which is not in {folder!r}")
