"""Single requests to S3."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from tokenstore.storage.remote.access import AsyncFiles
from tokenstore.storage.remote.versions import Versions


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
            client.meta.events.register("after-call.s3.GetObject", self._after)
        return await super().read_range(key, start, stop)

    def _before(self, params: Any, context: Any, **_: Any) -> None:
        context["tokenstore_path"] = params["url_path"]

    def _after(self, parsed: Any, context: Any, **_: Any) -> None:
        if "ETag" in parsed:
            self._note_version(context.get("tokenstore_path", ""), parsed["ETag"])
