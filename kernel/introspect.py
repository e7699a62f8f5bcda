"""What a node says of itself: services, settings, topic classes, features. Reads, never decides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sira import __version__
from sira.kernel import lanes
from sira.kernel.bus import Bus
from sira.kernel.errors import Unsupported
from sira.kernel.events import KINDS
from sira.kernel.methods import Catalog, TopicClass, json_schema
from sira.kernel.settings import Settings
from sira.kernel.topics import RESERVED
from sira.kernel.trust.credential import Credential
from sira.v1 import kernel_pb2

PROTOCOL = 1
# Named, so that a client can ask for what it needs; a version grows when the meaning does.
FEATURES: dict[str, int] = {
    "publish": 1, "subscribe": 1, "request": 1, "queue_groups": 1, "latest_topics": 1,
    "owned_topics": 1, "topic_classes": 1, "contracts": 1, "chunks": 1, "priorities": 1, "ttl": 1,
    "resume": 1, "asides": 1, "ledger": 1, "explain": 1, "events": 1, "reflection": 1, "health": 1,
    "tenants": 1, "tokens": 1, "policies": 1, "limits": 1, "audit": 1, "attach": 1,
    "lends": 1, "links": 1,
}  # fmt: skip
_CLASS_KINDS = {
    "user": kernel_pb2.TOPIC_CLASS_KIND_USER,
    "reserved": kernel_pb2.TOPIC_CLASS_KIND_RESERVED,
    "event": kernel_pb2.TOPIC_CLASS_KIND_EVENT,
}


def builtin_topic_classes() -> list[TopicClass]:
    """Return the patterns that mean something on every node."""
    return [
        TopicClass("sira.>", "event", "what the node says; only the node publishes"),
        TopicClass("_reply.>", "reserved", "private reply topics: read by their client alone"),
        *(TopicClass(f"{name}.>", "reserved", "of a later layer") for name in RESERVED),
    ]


def negotiate(
    request: kernel_pb2.NegotiateRequest, bus: Bus, who: Credential | None, lane: int
) -> kernel_pb2.NegotiateResponse:
    """Agree on a protocol version and lanes; one who has proved nothing is told no name.

    A connection has the lane that it was made on: `lane`.

    Raises:
        Unsupported: no version, or no lane, that both know.
    """
    low, high = request.protocol_min or PROTOCOL, request.protocol_max or PROTOCOL
    if not low <= PROTOCOL <= high:
        raise Unsupported(
            f"the client speaks protocol {low} to {high}, this node {PROTOCOL}",
            details={"feature": "protocol", "node_protocol": str(PROTOCOL)},
        )
    name = lanes.NAMES[lane]
    if request.lanes and name not in request.lanes:
        raise Unsupported(f"this connection has the lane {name}", details={"feature": "lanes"})
    return kernel_pb2.NegotiateResponse(
        protocol=PROTOCOL,
        node=bus.settings.node_name,
        version=__version__,
        epoch=bus.epoch,
        features=[kernel_pb2.Feature(name=n, version=v) for n, v in FEATURES.items()],
        lanes=[name],
        limits=bus.settings.limits(),
        principal=str(who.principal) if who else "",
        tenant=who.principal.tenant if who else "",
    )


def introspect(
    request: kernel_pb2.IntrospectRequest, catalog: Catalog, settings: Settings, tenant: str
) -> Iterator[kernel_pb2.IntrospectResponse]:
    """Describe the node part by part as a tenant sees it, but for `declared`.

    `request.service` narrows the services, not the rest.
    """
    yield kernel_pb2.IntrospectResponse(
        event_schemas={kind.topic: kind.json_schema() for kind in KINDS.values()}
    )
    for service in catalog.services(tenant):
        if request.service in ("", service):
            response = kernel_pb2.IntrospectResponse()
            entry = response.services.add(name=service)
            for each in catalog.methods(tenant):
                if each.service == service:
                    takes, gives = each.schemas or (
                        json_schema(each.request), json_schema(each.response),
                    )  # fmt: skip
                    entry.methods.add(
                        name=each.name,
                        effects=each.effects,
                        request_schema=takes,
                        response_schema=gives,
                        summary=each.summary,
                        request_stream=each.request_stream,
                        response_stream=each.response_stream,
                    )
            yield response
    response = kernel_pb2.IntrospectResponse()
    for spec in catalog.settings():
        response.settings.add(
            name=spec.name,
            value=spec.shown(getattr(settings, spec.name, spec.default)),
            unit=spec.unit,
            reason=f"{spec.reason}. If wrong: {spec.breaks}",
            source=settings.origins.get(spec.name, "default"),
            schema=spec.json_schema(),
        )
    response.settings.extend(catalog.brought_settings(tenant))
    for topic_class in catalog.topic_classes(tenant):
        response.topic_classes.add(
            pattern=topic_class.pattern,
            kind=_CLASS_KINDS[topic_class.kind],
            summary=topic_class.summary,
        )
    for verb in catalog.verbs(tenant):
        response.verbs.add(name=verb.name, summary=verb.summary, method=verb.method)
    yield response


def declared(bus: Bus, names: Iterable[str]) -> kernel_pb2.IntrospectResponse:
    """Describe declared topic classes of these names; those that have gone are left out."""
    response = kernel_pb2.IntrospectResponse()
    for name in names:
        found = bus.topics.declarations.get(name)
        if found is not None:
            response.topic_classes.add(
                pattern=name,
                kind=kernel_pb2.TOPIC_CLASS_KIND_USER,
                summary="latest" if found.retain else "volatile",
            )
    return response
