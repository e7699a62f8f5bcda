"""A Qdrant server by URL, through qdrant-client.

A collection of ours is a collection there, named with a digest of embedder and dims, and an alias
with the plain name, which is moved when the new one holds all points. So one made by another
embedder serves others until then, and nothing is ever mixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from sira.kernel.errors import Unreachable
from sira.registry.index.interface import Collection, Hit, Index, Point, Vector

_BATCH, _PAGE = 256, 4_096
_TIMEOUT_S = 10
_SEARCH_EF = 128
_NO_TAGS: Mapping[str, str] = {}
_FAILURES = (ApiException, QdrantException, OSError)
PREFIX = "sira-"
SIMULATED = ":memory:"


class Server(Index):
    """A collection on a server."""

    def __init__(self, collection: Collection, client: AsyncQdrantClient) -> None:
        """Use `open`."""
        super().__init__(collection)
        self._client, self._is_simulated = client, False
        self._name = f"{PREFIX}{collection.versioned}"
        self._alias = f"{PREFIX}{collection.name}"

    @classmethod
    async def open(cls, collection: Collection, url: str, *, api_key: str | None = None) -> Server:
        """Connect, and make the collection if it is not there.

        Args:
            url: http://HOST:6333, or `SIMULATED`: qdrant-client's own engine in this process.
            api_key: None: none is sent.

        Raises:
            Unreachable: no server there, or it refused.
        """
        client = (
            AsyncQdrantClient(location=url)
            if url == SIMULATED
            else AsyncQdrantClient(url=url, api_key=api_key, timeout=_TIMEOUT_S)
        )
        made = cls(collection, client)
        made._is_simulated = url == SIMULATED
        try:
            await made._make()
        except _FAILURES as error:
            await client.close()
            raise _unreachable(error) from error
        return made

    async def _make(self) -> None:
        if await self._client.collection_exists(self._name):
            return
        await self._client.create_collection(
            self._name,
            vectors_config=models.VectorParams(
                size=self.collection.dims, distance=models.Distance.COSINE
            ),
        )
        if self._is_simulated:  # it has no payload indexes, and warns
            return
        for index, tag in enumerate(self.collection.tags):
            # The first tag is the tenant: Qdrant stores its points side by side.
            await self._client.create_payload_index(
                self._name,
                tag,
                models.KeywordIndexParams(
                    type=models.KeywordIndexType.KEYWORD, is_tenant=index == 0
                ),
            )

    async def serve(self) -> None:
        """Say that all points are in: the plain name means this collection from now on.

        Those of other embedders that only we used are removed.
        """
        try:
            aliases = (await self._client.get_aliases()).aliases
            had = {each.collection_name for each in aliases if each.alias_name == self._alias}
            if had == {self._name}:
                return
            change: list[models.AliasOperations] = [
                models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=self._alias))
                for _ in had
            ]
            change.append(
                models.CreateAliasOperation(
                    create_alias=models.CreateAlias(
                        collection_name=self._name, alias_name=self._alias
                    )
                )
            )
            await self._client.update_collection_aliases(change)
            for name in had:
                await self._client.delete_collection(name)
        except _FAILURES as error:
            raise _unreachable(error) from error

    async def upsert(self, points: Sequence[Point]) -> None:
        """Put points in, 256 at a time."""
        self.check(points)
        try:
            for start in range(0, len(points), _BATCH):
                await self._client.upsert(
                    self._name,
                    [
                        models.PointStruct(
                            id=each.id, vector=each.vector.tolist(), payload=dict(each.tags)
                        )
                        for each in points[start : start + _BATCH]
                    ],
                    wait=True,
                )
        except _FAILURES as error:
            raise _unreachable(error) from error

    async def delete(self, ids: Sequence[int]) -> None:
        """Take points out."""
        try:
            if ids:
                await self._client.delete(
                    self._name, models.PointIdsList(points=list(ids)), wait=True
                )
        except _FAILURES as error:
            raise _unreachable(error) from error

    async def search(
        self, vector: Vector, k: int, *, where: Mapping[str, str] = _NO_TAGS
    ) -> list[Hit]:
        """Return the nearest points."""
        must: list[models.Condition] = [
            models.FieldCondition(key=tag, match=models.MatchValue(value=value))
            for tag, value in where.items()
        ]
        try:
            found = await self._client.query_points(
                self._name,
                query=vector.tolist(),
                limit=k,
                query_filter=models.Filter(must=must) if must else None,
                search_params=(
                    None if self._is_simulated else models.SearchParams(hnsw_ef=max(_SEARCH_EF, k))
                ),
                with_payload=False,
            )
        except _FAILURES as error:
            raise _unreachable(error) from error
        return [Hit(int(each.id), float(each.score)) for each in found.points]

    async def ids(self) -> list[int]:
        """Return the ids of all points."""
        found: list[int] = []
        offset: Any = None
        try:
            while True:
                page, offset = await self._client.scroll(
                    self._name, limit=_PAGE, offset=offset, with_payload=False
                )
                found += [int(each.id) for each in page]
                if offset is None:
                    return found
        except _FAILURES as error:
            raise _unreachable(error) from error

    async def count(self) -> int:
        """Return how many points there are."""
        try:
            return int((await self._client.count(self._name, exact=True)).count)
        except _FAILURES as error:
            raise _unreachable(error) from error

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()


def _unreachable(error: Exception) -> Unreachable:
    return Unreachable(
        f"the Qdrant server did not answer: {error}"[:300],
        help="is it running? the setting qdrant_url names it",
    )
