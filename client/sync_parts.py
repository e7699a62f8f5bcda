"""What the synchronous bus hands out: publishers, streams of replies, topics."""

from __future__ import annotations

import math
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, Self, cast

from sira import _native
from sira.client.info import Topic
from sira.client.looking import CALL_S
from sira.client.message import Body, SyncMessage
from sira.client.publisher import Publisher
from sira.client.reply_stream import ReplyStream
from sira.client.runner import Runner
from sira.client.topics import Topics


class SyncPublisher:
    """Pipelined publishing on one topic; see `Publisher`. One thread at a time."""

    def __init__(self, runner: Runner, publisher: Publisher) -> None:
        self._runner = runner
        self._publisher = publisher
        self._outbox = publisher._outbox
        timeout_s = publisher._timeout_s
        self._wait_s = math.inf if timeout_s is None else timeout_s

    def __enter__(self) -> Self:
        """Open the way at once."""
        self._runner.run(self._publisher.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """Wait for all receipts; after an exception of the body, refusals are not raised."""
        if kind is None:
            self.flush()

    def send(self, body: Body = None) -> None:
        """Queue one message; blocks only while there is no room. See `Publisher.send`."""
        if not self._outbox.room and not self._outbox.links:
            self._runner.run(self._publisher._send_later(body))
            return
        # From this thread: the outbox wakes its loop only when that was idle.
        waiting = self._publisher.send_here(body, self._wait_s)
        if waiting is not None:  # no room on the way by the node, or that for a large body
            self._runner.run(cast(Coroutine[Any, Any, None], waiting))

    def flush(self, *, timeout_s: float | None = None) -> None:
        """Wait until each message sent so far has its answer; see `Publisher.flush`."""
        self._runner.run(self._publisher.flush(timeout_s=timeout_s))

    def receipts(self) -> Iterator[_native.Receipt]:
        """Yield the receipts that have come and were not asked for yet; `flush` waits for all."""
        return iter(self._publisher.receipts())

    @property
    def sent(self) -> int:
        """Messages given to `send`."""
        return self._publisher.sent

    @property
    def accepted(self) -> int:
        """Messages that the node has taken."""
        return self._publisher.accepted

    @property
    def refused(self) -> int:
        """Messages that the node has refused."""
        return self._publisher.refused


class SyncReplyStream:
    """The replies to one request, in order, then the end; see `ReplyStream`."""

    def __init__(self, runner: Runner, stream: ReplyStream) -> None:
        self._runner = runner
        self._stream = stream

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Leave the stream."""
        self.close()

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> SyncMessage:
        """Return the next reply; see `ReplyStream.__anext__`."""
        try:
            return cast(SyncMessage, self._runner.run(self._next()))
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> Any:
        return await self._stream.__anext__()

    def close(self) -> None:
        """Leave the stream."""
        self._runner.run(self._stream.aclose())


class SyncTopics:
    """Topics by name: `bus.topics`; see `Topics`."""

    def __init__(self, runner: Runner, topics: Topics) -> None:
        self._runner = runner
        self._topics = topics

    def create(
        self,
        name: str,
        *,
        kind: str = "volatile",
        contract: Mapping[str, str] | None = None,
        owned: bool = False,
        keep_s: int | None = None,
        keep_bytes: int | None = None,
        timeout_s: float | None = CALL_S,
    ) -> Topic:
        """Declare a topic, or with a pattern a class of topics."""
        return self._runner.run(
            self._topics.create(
                name,
                kind=kind,
                contract=contract,
                owned=owned,
                keep_s=keep_s,
                keep_bytes=keep_bytes,
                timeout_s=timeout_s,
            )
        )

    def list(self, pattern: str = "", *, timeout_s: float | None = CALL_S) -> list[Topic]:
        """Return the topics that `pattern` matches ("": all), by name."""
        return self._runner.run(self._topics.list(pattern, timeout_s=timeout_s))

    def delete(self, name: str, *, timeout_s: float | None = CALL_S) -> None:
        """Forget a topic. Raises NotFound."""
        self._runner.run(self._topics.delete(name, timeout_s=timeout_s))
