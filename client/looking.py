"""Looking at a node: ledger, explanations, counts, what it can do."""

from __future__ import annotations

from abc import ABC, abstractmethod

from sira.client.connection import Connection
from sira.client.deadline import Deadline
from sira.client.info import Explanation, Ledger
from sira.client.later import Later
from sira.v1 import kernel_pb2

CALL_S = 5.0
_PAGE_ROWS = 10_000  # the node may end a page before


class Looking(Later, ABC):
    """Calls that change nothing. `Bus` has them."""

    @property
    @abstractmethod
    def connection(self) -> Connection:
        """The connection under the bus."""

    async def ledger(self, pattern: str = "", *, timeout_s: float | None = CALL_S) -> Ledger:
        """Return the deliveries owed on the topics of `pattern` ("": all), and their fate.

        A node with very many topics gives them in pages; `timeout_s` holds for all of them.
        """
        self.connection.incoming.flush_credits()
        deadline = Deadline(timeout_s, self.connection.loop)
        request = kernel_pb2.LedgerRequest(pattern=pattern, page_rows=_PAGE_ROWS)
        pages: list[kernel_pb2.LedgerResponse] = []
        while not pages or request.page_token:
            page = await self.connection.unary(
                "/sira.v1.Kernel/Ledger",
                request,
                kernel_pb2.LedgerResponse,
                timeout_s=None if timeout_s is None else deadline.left_s(),
            )
            if pages and page.epoch != pages[0].epoch:
                pages.clear()  # another life of the node, whose books begin anew
            pages.append(page)
            request.page_token = page.next
        return Ledger.from_pages(pages)

    async def explain(
        self,
        topic: str,
        *,
        principal: str = "",
        action: str = "",
        client: str = "",
        timeout_s: float | None = CALL_S,
    ) -> Explanation:
        """Return where a message on `topic` would go, and why.

        Args:
            topic: topic or pattern; for `call`, `attach` and `administer` a method or name.
            principal: who would act, one of this tenant; "": this client with its token.
            action: one of those of rules; "": publish.
            client: id of a publisher, or its beginning: also say which way its messages would go.
        """
        answer = await self.connection.unary(
            "/sira.v1.Kernel/Explain",
            kernel_pb2.ExplainRequest(
                topic=topic, principal=principal, action=action, client=client
            ),
            kernel_pb2.ExplainResponse,
            timeout_s=timeout_s,
        )
        return Explanation.from_proto(topic, answer)

    async def stats(
        self, *, prometheus: bool = False, timeout_s: float | None = CALL_S
    ) -> kernel_pb2.StatsResponse:
        """Return the node's counts, by metric name with the unit in it."""
        return await self.connection.unary(
            "/sira.v1.Kernel/Stats",
            kernel_pb2.StatsRequest(prometheus=prometheus),
            kernel_pb2.StatsResponse,
            timeout_s=timeout_s,
        )

    async def memory(
        self, pattern: str = "", *, timeout_s: float | None = CALL_S
    ) -> kernel_pb2.MemoryResponse:
        """Return the memory that clients share on the node, of the topics of `pattern` ("": all).

        Whose it is, its size and age, who looks at it; and what two clients share past the node.
        """
        return await self.connection.unary(
            "/sira.v1.Kernel/Memory",
            kernel_pb2.MemoryRequest(pattern=pattern),
            kernel_pb2.MemoryResponse,
            timeout_s=timeout_s,
        )

    async def introspect(
        self, service: str = "", *, timeout_s: float | None = CALL_S
    ) -> kernel_pb2.IntrospectResponse:
        """Return the node's services, methods, settings and topic classes."""
        return await self.connection.unary(
            "/sira.v1.Kernel/Introspect",
            kernel_pb2.IntrospectRequest(service=service),
            kernel_pb2.IntrospectResponse,
            timeout_s=timeout_s,
        )
