"""The middle of a node without sockets, threads or clocks: who publishes where, and who gets it.

`Bus` decides; the data plane (`_native.Hub`) remembers and obeys; `edge/` and `node.py` hold the
sockets and the time. Every call that depends on time takes `now_ns` (CLOCK_MONOTONIC, ns), so that
a run can be replayed. All of it belongs to one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping

import sira.kernel.binding  # noqa: F401  ties the C core to its errors
from sira import _native
from sira.kernel import errors, withdrawn
from sira.kernel.access import Access
from sira.kernel.admission.admission import Admission
from sira.kernel.admission.limits import OF_SETTINGS, Limit
from sira.kernel.clients import Client, Clients, Hello
from sira.kernel.errors import NodeDraining, QuotaExceeded
from sira.kernel.events import Field, Kind
from sira.kernel.identity import Principal
from sira.kernel.routes import Routes
from sira.kernel.settings import Settings
from sira.kernel.slices import Slices
from sira.kernel.streams import PublishStream, SubscribeStream
from sira.kernel.subscriptions import SubscriptionTable
from sira.kernel.telling import Telling
from sira.kernel.topic_table import TopicTable
from sira.kernel.trust.credential import Credential

_EPOCH_BYTES = 16


class Bus(Telling):
    """Topics, clients, subscriptions and the rules between them, of one tenant and node life.

    Each tenant of a node has one: nothing in it can name what is in another. `routes` says where
    messages go, `listening` makes subscriptions live, `Telling` says what happens.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        tenant: str = "default",
        access: Access | None = None,
        epoch: bytes = b"",
        tell: Callable[[str, Mapping[str, Field]], None] | None = None,
        clock_ns: Callable[[], int] = _native.now_ns,
        soon: Callable[[Callable[[], None]], object],
        log: Callable[[Kind, Mapping[str, Field]], None] | None = None,
    ) -> None:
        """Begin empty.

        Args:
            settings: limits in force.
            tenant: whose it is.
            access: the rules that the doors apply; None: all is allowed.
            epoch: of the node's life; empty: a new one.
            tell: gets each fact, for those who watch the whole node.
            clock_ns: CLOCK_MONOTONIC, ns; for facts and limits. Data-plane calls get `now_ns`.
            soon: runs a function after the current call has left the data plane
                (`loop.call_soon`).
            log: gets each fact of `sira.>`, listened to or not.
        """
        self.tenant = tenant
        self.access = access or Access()
        self.epoch = epoch or os.urandom(_EPOCH_BYTES)
        self.draining = False
        # Takes in what is counted past the node; yields after a few milliseconds at most.
        self.settle: Callable[[], Generator[None, None, None]] = _nothing
        self.slices = Slices(soon)
        self.clients = Clients(settings)
        self.subscriptions = SubscriptionTable()
        self.routes = Routes(self)
        hub = _native.Hub(
            message_bytes_max=settings.message_bytes_max,
            queue_messages_max=settings.queue_messages_max,
            queue_bytes_max=settings.queue_bytes_max,
            stall_ns=round(settings.stall_s * 1e9),
            block_ns=round(settings.publish_block_s * 1e9),
            transfer_window_bytes=settings.transfer_window_bytes,
            transfers_per_stream_max=settings.transfers_per_stream_max,
            encode_error=errors.encode,
        )
        super().__init__(
            settings,
            hub,
            tenant=tenant,
            listened=self.subscriptions.heard,
            resolve=lambda name: self.routes.resolve(self.node, self.self, name),
            clock_ns=clock_ns,
            soon=soon,
            log=log,
            tell=tell,
        )
        self.admission = Admission(_limits(settings), clock_ns, self.limit_reached)
        self.topics = TopicTable(
            hub,
            settings,
            self.subscriptions,
            self.events,
            lambda number: self.clients.numbered(number) is not None,
            self.admission,
        )

    # ---- clients ---------------------------------------------------------------------------------

    def join(self, hello: Hello, principal: Principal, peer: str, now_ns: int) -> Client:
        """Return the client of a new stream.

        Raises:
            NodeDraining: the node takes nothing new.
            Denied, QuotaExceeded: see `Clients.join`.
        """
        if self.draining:
            raise NodeDraining(retry_after_ms=1_000)
        client, new = self.clients.join(hello, principal, peer, now_ns)
        if new:
            try:
                self.admission.take("connections", principal)
            except QuotaExceeded:
                self.clients.leave(client, now_ns)
                raise
            self.events.emit(
                "sira.client.connected", client=client.id, principal=str(principal), peer=peer
            )
        return client

    def open_publish(
        self,
        client: Client,
        who: Credential,
        *,
        wake: Callable[[], None],
        hello: Hello,
        now_ns: int,
    ) -> PublishStream:
        """Open a Publish stream.

        Where `hello` says that messages at its start were sent before, the stream that they were
        sent on is lost: what is left of it is ended, or it could still take them a second time.

        Args:
            client: as `join` gave it.
            who: what the stream acts with.
            wake: told when there are receipts.
            hello: says how many messages at the start were sent before.
            now_ns: CLOCK_MONOTONIC.
        """
        count = hello.resume_messages
        known = (
            client.publish_streams > 0
            and hello.resume_epoch == self.epoch
            and count <= self.settings.retry_messages_max
        )
        lost = list(client.publishes) if count else []
        client.publish_streams += 1
        stream = PublishStream(
            self,
            client,
            who,
            wake=wake,
            resume=count if known else 0,
            unknown=0 if known else count,
            link=hello.link,
            waits=hello.waits,
        )
        client.publishes[stream] = None
        for older in lost:  # last: a client without a stream is gone
            older.supersede(now_ns)
        return stream

    def open_subscribe(
        self, client: Client, who: Credential, *, wake: Callable[[], None], link: str = ""
    ) -> SubscribeStream:
        """Open a Subscribe stream; `wake` is told when there is something to send."""
        stream = SubscribeStream(self, client, who, wake=wake, link=link)
        client.subscribes[stream] = None
        return stream

    def left(self, client: Client, now_ns: int) -> None:
        """Note that a stream of a client ended; with its last one the client is gone."""
        if client.stream_count or self.clients.numbered(client.number) is not client:
            return
        self.clients.leave(client, now_ns)
        self.admission.give("connections", client.principal)
        self.topics.drop_owned(client.number)
        self.events.emit(
            "sira.client.gone",
            client=client.id,
            principal=str(client.principal),
            reason="NODE_DRAINING" if self.draining else "PEER_LOST",
        )

    # ---- rules -----------------------------------------------------------------------------------

    def may(self, who: Credential, action: str, resource: str) -> None:
        """Ask the rules in force.

        Raises:
            Denied, Revoked, Unauthenticated: they say no.
        """
        self.access.may(who, action, resource)

    def rules_changed(self) -> Iterator[None]:
        """Bring what is open in line with rules that have changed: yields after each small step.

        Publishers ask anew with their next message, each match included: before the first step is
        over nothing more is taken for whom it is not allowed. See `withdrawn.bring_in_line`.
        """
        self.routes.touch_all()
        return withdrawn.bring_in_line(self)

    def set_limits(self, limits: tuple[Limit, ...]) -> None:
        """Put other limits in force, beside those of the settings."""
        self.admission.change((*_limits(self.settings), *limits))
        self.hub.touch()

    def drain(self) -> None:
        """Take nothing new from now on; replies to requests under way still pass."""
        self.events.emit(
            "sira.node.draining", node=self.settings.node_name, drain_s=self.settings.drain_s
        )
        self.draining = True
        self.hub.touch()

    # ---- time ------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> bool:
        """Let time pass: expire, time out, mark stalls, drop what is idle.

        Returns:
            Whether there is more to do at once.
        """
        for event, sub in self.hub.tick(now_ns):
            client = self.clients.numbered(sub.client)
            self.events.emit(
                "sira.stalled" if event == "stalled" else "sira.resumed",
                client=client.id if client else "",
                pattern=sub.pattern,
                group=sub.group.name if sub.group else "",
            )
        self.tell_drops()
        self.clients.forget(now_ns)
        return self.topics.step(now_ns)


def _nothing() -> Generator[None, None, None]:
    """Do nothing, in slices."""
    yield from ()


def _limits(settings: Settings) -> tuple[Limit, ...]:
    """Return the limits that the settings ask for; by default none."""
    messages, bytes_ = settings.principal_messages_per_s_max, settings.principal_bytes_per_s_max
    if not messages and not bytes_:
        return ()
    return (Limit(OF_SETTINGS, "principal", messages_per_s=messages, bytes_per_s=bytes_),)
