"""Which node a client is connected to: finding it, and the way to it.

Owns the transport, who the client is, and what it waits for while there is no node. Refuses to know
what goes over the way. A client has a random id of its own, which all its calls carry: by it the
node ties its streams together and finds the messages that a lost one had brought (`sira-resume`).
"""

from __future__ import annotations

import asyncio
import random
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from sira import __version__
from sira.client.deadline import Deadline
from sira.client.lineage import check_fork, forks
from sira.client.retry import Retry
from sira.client.transport import Transport
from sira.kernel.errors import (
    Denied,
    Revoked,
    SiraError,
    Timeout,
    Unauthenticated,
    Unreachable,
)
from sira.v1 import kernel_pb2

PROTOCOL = 1
# One try of one address; a host that swallows packets must not use up the caller's whole time.
DIAL_S = 3.0
_PUBLISH_BLOCK_MS = 5_000
# These mean that the connection is gone, not that what was sent is wrong.
TRANSIENT = frozenset(
    {"UNREACHABLE", "NODE_DRAINING", "CANCELLED", "TIMEOUT", "INTERNAL", "PEER_LOST"}
)


def is_of_proof(error: SiraError) -> bool:
    """Whether what was shown proves nothing any more; a right withdrawn by a rule is no such."""
    if isinstance(error, Revoked):
        return error.details.get("reason") == "revoked"
    return isinstance(error, Unauthenticated)


def is_of_right(error: SiraError) -> bool:
    """Whether a rule refuses a stream: who is connected stays so, and may do other things."""
    return isinstance(error, Denied | Revoked) and not is_of_proof(error)


def _nobody(node: str) -> SiraError:
    return Unauthenticated(
        f"{node} takes nobody who shows nothing",
        help="show a token: --token-file FILE or SIRA_TOKEN (token= in Python), or a certificate",
        details={"address": node},
    )


class Nodes(ABC):
    """The nodes that a client may use, and the way to one of them."""

    def __init__(
        self, nodes: list[str], *, retry: Retry, dial: Callable[[str], Transport], are_ways: bool
    ) -> None:
        """Prepare; `open` connects."""
        self.loop = asyncio.get_running_loop()
        self.retry = retry
        self.client_id = secrets.token_hex(16)
        self.rng = random.Random(self.client_id)
        self.node = kernel_pb2.NegotiateResponse()
        self.ended: SiraError | None = None  # closed, or refused for good: why
        self._nodes = nodes
        self._ways = tuple(nodes) if are_ways else ()
        self._dial = dial
        self._forks = forks()
        self._transport: Transport | None = None
        self._is_up = asyncio.Event()
        self._last_error: SiraError = Unreachable("not connected yet")
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    def _connected(self, transport: Transport, node: kernel_pb2.NegotiateResponse) -> None:
        """Begin with a node that has answered."""

    @abstractmethod
    def _lost(self, error: SiraError) -> None:
        """Begin to come back."""

    async def open(self, timeout_s: float | None) -> None:
        """Connect to the first node that answers.

        Raises:
            Unreachable: none did within `timeout_s`.
            SiraError: one did, and refused this client.
        """
        deadline = Deadline(timeout_s, self.loop)
        delays_s = self.retry.delays_s(self.rng)
        tries = 0
        while not await self._try_nodes(deadline, tries):
            tries += 1
            if self.ended is not None:
                raise self.ended
            delay_s = self._delay_s(delays_s)
            if not self.retry.connects or deadline.left_s() <= delay_s:
                raise self._unreachable()
            await asyncio.sleep(delay_s)

    async def _try_nodes(self, deadline: Deadline, tries: int = 0) -> bool:
        """Whether a node was connected; `tries`: how many were made in this time before."""
        for node in self._ways or tuple(self._nodes):
            transport = self._dial(node)
            request = kernel_pb2.NegotiateRequest(
                client=f"sira-python/{__version__}",
                protocol_min=PROTOCOL,
                protocol_max=PROTOCOL,
                lanes=[transport.lane],
            )
            timeout_s = min(DIAL_S, max(0.05, deadline.left_s()))
            try:
                answer = await transport.unary(
                    "/sira.v1.Kernel/Negotiate",
                    request.SerializeToString(),
                    metadata=self.metadata(),
                    timeout_s=timeout_s,
                )
            except SiraError as error:
                # A try that the caller's own time cut short says less than the one before it.
                if not (tries and timeout_s < DIAL_S and isinstance(error, Timeout)):
                    self._last_error = error
                tries += 1
                await transport.close()
                if not self._passes(error):
                    self.ended = error
                    return False
                continue
            except BaseException:
                await transport.close()
                raise
            said = kernel_pb2.NegotiateResponse.FromString(answer)
            if not said.principal:  # no call would be answered: say so now, and not one by one
                await transport.close()
                self._last_error = self.ended = _nobody(node)
                return False
            # The next loss begins with the node that answered last.
            self._nodes.remove(node)
            self._nodes.insert(0, node)
            self._connected(transport, said)
            return True
        return False

    def _passes(self, error: SiraError) -> bool:
        """Whether a try that failed with `error` may succeed later."""
        return error.code in TRANSIENT or self.retry.limit_delay_s(error, self.rng) is not None

    def _delay_s(self, delays_s: Iterator[float]) -> float:
        """Return how long to wait before the next try: longer where a limit says so."""
        return max(next(delays_s), self.retry.limit_delay_s(self._last_error, self.rng) or 0.0)

    def _unreachable(self) -> SiraError:
        if isinstance(self._last_error, Unreachable):
            return self._last_error
        nodes = ", ".join(self._nodes)
        return Unreachable(f"no node at {nodes}: {self._last_error}", details={"nodes": nodes})

    def metadata(self) -> list[tuple[str, str]]:
        """Return what every call carries."""
        return [("sira-client", self.client_id)]

    @property
    def address(self) -> str:
        """Where the node is, or was last: `host:port`, `unix:/path` or `fd:/N`."""
        return self._nodes[0]

    @property
    def lane(self) -> str:
        """How the way to the node is called in receipts; "" while there is none."""
        return self._transport.lane if self._transport is not None else ""

    @property
    def is_up(self) -> bool:
        """Whether a node is connected at this moment."""
        return self._is_up.is_set()

    @property
    def publish_block_s(self) -> float:
        """How long the node lets a publish wait for room where the publish does not say, in s."""
        return self.node.limits.get("publish_block_ms", _PUBLISH_BLOCK_MS) / 1e3

    @property
    def last_error(self) -> SiraError:
        """Why there was no connection, when there was none last."""
        return self._last_error

    def check(self) -> None:
        """Refuse use after the end and in a forked child.

        Raises:
            Unreachable: closed, or made by the parent process.
            SiraError: the node refused this client for good.
        """
        check_fork(self._forks)
        if self.ended is not None:
            raise self.ended

    async def up(self, deadline: Deadline) -> Transport:
        """Return the way to the node, waiting for it to come back if need be.

        Raises:
            Unreachable: it did not within the deadline.
        """
        while True:
            self.check()
            if self._transport is not None:
                return self._transport
            try:
                async with asyncio.timeout(deadline.timer_s()):
                    await self._is_up.wait()
            except TimeoutError:
                raise self._unreachable() from None

    def is_renewed(self, error: SiraError) -> bool:
        """Whether `error` refuses what was shown, and there is something newer to show."""
        return (
            is_of_proof(error)
            and self.retry.connects
            and self._transport is not None
            and self._transport.renewed()
        )

    def _drop(self, transport: Transport) -> None:
        self._start_task(transport.close(), "sira-close")

    def _start_task(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
