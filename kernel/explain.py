"""Why a message goes where it goes: the questions that a publish asks, answered in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sira import _native
from sira.kernel import direct, lanes
from sira.kernel.authorize import ACTIONS, ALLOW, Allow
from sira.kernel.bus import Bus
from sira.kernel.clients import Client
from sira.kernel.errors import BadRequest
from sira.kernel.identity import Principal
from sira.kernel.subscriptions import Listener, Subscription, readers
from sira.kernel.topics import (
    NODE_PREFIX,
    REPLY_PREFIX,
    RESERVED,
    first_token,
    is_pattern,
)
from sira.kernel.trust.credential import Credential
from sira.v1 import kernel_pb2

# Actions on a method or another name, and not on a topic.
NAMED = frozenset({"call", "attach", "administer", "lease", "configure"})
_NAME_CHARS_MAX = 255
_NO_ASK = "it has not asked to pass the node: the second message on a topic within ten seconds does"
_NO_LINKS: Mapping[int, str] = {
    lanes.GRPC: "it came by gRPC, as from another host or by TLS: no memory is shared with it",
    lanes.SOCKET: "its connection takes no links: SIRA_DIRECT=off or SIRA_SHM=off there, or this "
    "node takes none (links_max)",
}


def explain(
    bus: Bus, request: kernel_pb2.ExplainRequest, caller: Credential
) -> kernel_pb2.ExplainResponse:
    """Say whether the action is allowed, and by which rules; `matches` says whom it reaches.

    Raises:
        BadTopic, BadRequest: topic, name, principal or action are not well formed.
    """
    topic, action = request.topic, request.action or "publish"
    if action not in ACTIONS:
        raise BadRequest(f"{action[:40]!r} is none of {', '.join(ACTIONS)}")
    if action in NAMED:
        _check_name(topic)
    elif is_pattern(topic):
        _native.check_pattern(topic)
    else:
        _native.check_topic(topic)
    who = _whom(bus, request, caller)
    principal = who.principal
    response = kernel_pb2.ExplainResponse(decision="allow")
    decision = bus.access.decide(who, action, topic)
    if action == "subscribe" and is_pattern(topic):
        readable = bus.access.readable(who, topic)
        response.readable.extend(readable.allowed)
        response.cut.extend(readable.cut)
        if readable.allowed:
            decision = ALLOW
    if isinstance(decision, Allow):
        response.reasons.append(f"the policy allows {principal} to {action} {topic}")
        response.obligations.extend(f"{k}={v}" for k, v in decision.obligations)
        response.reasons.extend(f"obligation {each}" for each in response.obligations)
    else:
        response.rule = decision.reason
        _deny(response, f"{decision.code}: {decision.reason}")
    if action in NAMED:
        return response
    if action == "publish":
        _publish(bus, response, topic)
    declared = bus.topics.declarations.effective(topic)
    response.kind = "latest" if declared.retain else "volatile"
    response.contract.update(declared.contract_texts)
    if declared.name != topic:
        response.reasons.append(f"class {declared.name} says what kind of topic it is")
    return response


def _check_name(name: str) -> None:
    if not name or len(name) > _NAME_CHARS_MAX or not name.isprintable():
        raise BadRequest(
            f"a method or name has 1 to {_NAME_CHARS_MAX} printable characters",
            details={"field": "topic"},
        )


def _whom(bus: Bus, request: kernel_pb2.ExplainRequest, caller: Credential) -> Credential:
    """Return for whom to decide: the caller with its token, or a principal without any.

    Raises:
        BadRequest: no principal, or one of another tenant: there is nothing of it to see here.
    """
    if not request.principal:
        return caller
    principal = Principal.parse(request.principal)
    if principal.tenant != bus.tenant:
        raise BadRequest(
            f"{principal} is no principal of tenant {bus.tenant}", details={"field": "principal"}
        )
    return caller if principal == caller.principal else Credential(principal, "explained")


def matches(
    bus: Bus, subscriptions: Iterable[Subscription], request: kernel_pb2.ExplainRequest
) -> kernel_pb2.ExplainResponse:
    """Return what becomes of the topic's messages at these subscriptions."""
    return kernel_pb2.ExplainResponse(
        matches=[_match(bus, each, request.topic) for each in subscriptions]
    )


def past_the_node(
    bus: Bus,
    listeners: Sequence[Listener],
    request: kernel_pb2.ExplainRequest,
    caller: Credential,
) -> str:
    """Say whether publishers on this host, at `sira.sock`, hand the topic's messages over directly.

    It is all or none of those that a message reaches: of them the first few are looked at.
    """
    name, who = request.topic, _whom(bus, request, caller)
    decision = bus.access.decide(who, "publish", name)
    declared = bus.topics.declarations.effective(name)
    refused = direct.refusal(
        direct.Topic(
            name,
            retained=declared.retain,
            contracted=declared.contract is not None,
            owned=declared.owner != 0,
        ),
        # Some may have left since they were looked up.
        [direct.target_of(e) for e in listeners[: direct.TARGETS_MAX + 1] if readers(e)],
        limited=bool(bus.admission.for_route(who.principal, name)),
        obliged=isinstance(decision, Allow) and direct.obliges(decision.obligations),
        draining=bus.draining,
    )
    if refused is not None:
        return f"messages go by the node: {refused.why}"
    return "publishers at the node's Unix socket hand messages over past it, while all keep up"


def publishers(
    bus: Bus, some: Iterable[Client], request: kernel_pb2.ExplainRequest
) -> list[kernel_pb2.ExplainPublisher]:
    """Say which way messages of these clients on the topic go.

    Of clients that were not asked about by `request.client`: all that asked to pass the node.
    """
    rows = []
    for client in some:
        named = bool(request.client) and client.id.startswith(request.client)
        if request.client and not named:
            continue
        for stream in client.publishes:
            lane, past = stream.ingress.lane, stream.direct
            way = past.way(stream, request.topic) if past is not None else None
            if way is None and named:
                way = direct.Way(False, _NO_ASK if past is not None else _NO_LINKS[lane])
            if way is not None:
                rows.append(
                    kernel_pb2.ExplainPublisher(
                        client=client.id,
                        lane=lanes.NAMES[lane],
                        path="direct" if way.direct else "node",
                        why=way.why,
                    )
                )
    return rows


def _publish(bus: Bus, response: kernel_pb2.ExplainResponse, topic: str) -> None:
    """Add the rules that hold for every publish, whatever the policy says."""
    head = first_token(topic)
    if is_pattern(topic):
        _deny(response, "BAD_TOPIC: a publish names one topic, no pattern")
    if head == NODE_PREFIX:
        _deny(response, f"DENIED: only the node publishes under {head}.")
    elif head in RESERVED or (head.startswith("_") and head != REPLY_PREFIX):
        _deny(response, f"DENIED: names under {head!r} are reserved")
    if bus.draining:
        _deny(response, "NODE_DRAINING: the node takes nothing new")
    known = bus.hub.topic(topic)
    if known is None:
        response.reasons.append("the topic is not in use yet: it is made by the first publish")


def _deny(response: kernel_pb2.ExplainResponse, reason: str) -> None:
    response.decision = "deny"
    response.reasons.append(reason)


def _match(bus: Bus, subscription: Subscription, topic: str) -> kernel_pb2.ExplainMatch:
    sub = subscription.sub
    full = sub.in_flight > 0 and sub.pending > 0
    state = "stalled" if sub.stalled else "blocked" if full else "ready"
    reader = subscription.stream.credential
    if not isinstance(bus.access.decide(reader, "subscribe", topic), Allow):
        state = "denied"
    lane = subscription.stream.lane if subscription.stream.reader is None else lanes.SHM
    kept = direct.target_refusal(direct.target_of(subscription)) if lane != lanes.GRPC else None
    why = lanes.REASONS[lane] + (f"; nothing comes past the node: {kept.why}" if kept else "")
    if kept is None and lane != lanes.GRPC and not sub.idle:
        why += "; until it has what waits for it on the node, more comes by the node"
    return kernel_pb2.ExplainMatch(
        client=subscription.client.id,
        pattern=subscription.pattern,
        group=subscription.group_name,
        lane=lanes.NAMES[lane],
        lane_reason=why,
        pending=sub.pending,
        state=state,
    )
