"""What a node tells of itself: refusals, limits, drops, and who did what (`sira.audit`)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from sira import _native
from sira.kernel.admission.limits import Limit
from sira.kernel.clients import Client
from sira.kernel.errors import SiraError
from sira.kernel.events import Events, Field, Kind
from sira.kernel.identity import Principal
from sira.kernel.settings import SCHEMA, Settings
from sira.kernel.trust.credential import Credential
from sira.v1 import bus_pb2, message_pb2, tensor_pb2

_RIGHTS = frozenset({"DENIED", "REVOKED", "UNAUTHENTICATED"})  # refusals of a right


class Telling:
    """Counts and tells for a bus, and publishes facts on it as the client 0.

    Attributes:
        refusals: since the start, by action and code.
        events: the way out.
        node: the client that publishes facts.
        self: what the node itself acts with.
    """

    def __init__(
        self,
        settings: Settings,
        hub: _native.Hub,
        *,
        tenant: str,
        listened: Callable[[str], bool],
        resolve: Callable[[str], _native.Route],
        clock_ns: Callable[[], int],
        soon: Callable[[Callable[[], None]], object],
        log: Callable[[Kind, Mapping[str, Field]], None] | None,
        tell: Callable[[str, Mapping[str, Field]], None] | None,
    ) -> None:
        """Begin with nothing told.

        Args:
            settings: limits in force.
            hub: where facts are published.
            tenant: whose world it is.
            listened: whether any subscription matches a topic.
            resolve: says where the node's own messages on a topic go.
            clock_ns: CLOCK_MONOTONIC, ns.
            soon: runs a function after the current call has left the data plane.
            log: gets each fact, listened to or not.
            tell: gets each fact, for those who watch the whole node.
        """
        self.settings, self.hub, self.now_ns = settings, hub, clock_ns
        self.soon = soon
        self.refusals: Counter[tuple[str, str]] = Counter()
        self._dropped_told: dict[str, int] = {}
        self.events = Events(
            tenant=tenant,
            listened=listened,
            publish=self._publish_fact,
            clock_ns=clock_ns,
            wake=self._flush_soon,
            log=log,
            tell=tell,
            per_s_max=settings.events_per_s_max,
            queue_max=settings.events_queue_max,
        )
        self.node = Client(
            number=0,
            id="0" * 32,
            principal=Principal(settings.cluster_name, tenant, "node", settings.node_name),
            peer="",
            connected_ns=clock_ns(),
            history=_native.History(messages_max=1),
        )
        self.self = Credential(self.node.principal, "node")
        self._facts = _native.Ingress(
            hub, client=0, stamp=self.node.stamp, resolve=resolve, wake=lambda: None
        )

    def refused(
        self,
        principal: Principal,
        action: str,
        resource: str,
        error: SiraError,
        *,
        intent: str = "",
    ) -> None:
        """Count and tell that something was refused; a missing right stands on the audit, too."""
        # A code that is none of ours came out of a reply: peers must not name our counters.
        self.refusals[action, "OTHER" if type(error) is SiraError else error.code] += 1
        setting = error.details.get("setting", "")
        limit = getattr(self.settings, setting) if setting in SCHEMA else None
        if error.code == "QUOTA_EXCEEDED" and isinstance(limit, int | float):
            self.events.emit("sira.limit", setting=setting, value=limit, principal=str(principal))
        self.events.emit(
            "sira.refused",
            principal=str(principal),
            action=action,
            resource=resource[:255],
            reason=error.code,
        )
        if error.code in _RIGHTS:
            self.audit(
                principal,
                action,
                resource,
                intent=intent,
                result=error.code,
                rule=error.details.get("rule", ""),
            )

    def audit(
        self,
        principal: Principal,
        action: str,
        resource: str,
        *,
        intent: str = "",
        result: str = "ok",
        rule: str = "",
    ) -> None:
        """Let `sira.audit` say who did what, or tried to."""
        self.events.emit(
            "sira.audit",
            principal=str(principal),
            action=action,
            resource=resource[:255],
            intent=intent,
            result=result,
            rule=rule[:255],
        )

    def tell_drops(self) -> None:
        """Tell how many deliveries were dropped since the last time, by reason."""
        dropped = self.hub.dropped
        for reason, count in dropped.items():
            since = count - self._dropped_told.get(reason, 0)
            if since:
                self.events.emit("sira.dropped", reason=reason, count=since)
        self._dropped_told = dropped

    def tell_config(self, setting: str, value: str) -> None:
        """Say that something that holds for all was changed by the node's operator."""
        self.events.emit(
            "sira.config", setting=setting, value=value, principal=str(self.node.principal)
        )

    def limit_reached(self, limit: Limit, key: str) -> None:
        """Say that a limit of the operator's has refused something; `key`: whose it is."""
        self.events.emit("sira.limit", setting=limit.name, value=limit.value, principal=key)

    def _flush_soon(self) -> None:
        self.soon(self.events.flush)

    def _publish_fact(self, topic: str, body: bytes) -> None:
        """Publish one fact. A subscriber without room misses it; the node never waits."""
        message = message_pb2.Message(
            id=_native.new_id(),
            topic=topic,
            content_type="application/json",
            time_ns=time.time_ns(),
            source=self.settings.node_name,
        )
        message.tensors.add(dtype=tensor_pb2.DTYPE_UTF8, shape=[len(body)], data=body)
        item = bus_pb2.Item(message=message, quiet=True, wait_ms=0)
        now_ns = self.now_ns()
        self._facts.feed(bus_pb2.Frame(items=[item]).SerializeToString(), now_ns)
        while self._facts.next_frame(now_ns) is not None:
            pass  # a refusal of a fact has nobody to hear it
