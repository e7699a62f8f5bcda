"""What a CreateTopic asks for, checked before anything is declared."""

from __future__ import annotations

from collections.abc import Iterator

from sira import _native
from sira.kernel.errors import BadRequest, ContractMismatch, Denied, Unsupported
from sira.kernel.subscriptions import SubscriptionTable
from sira.kernel.topics import (
    NODE_PREFIX,
    OTHER_CLASS,
    RESERVED,
    Declaration,
    first_token,
    intersects,
    is_pattern,
)
from sira.v1 import bus_pb2

_SUBSCRIPTIONS_A_SLICE = 200  # 1 µs each that does not match, some µs that does


def asked(request: bus_pb2.CreateTopicRequest, *, owner: int) -> Declaration:
    """Return what is to be declared.

    Args:
        request: as it came.
        owner: number of the client that it dies with; 0: it stays.

    Raises:
        BadTopic, BadRequest: name or contract not well formed, unknown kind.
        Denied: a reserved name.
        Unsupported: kind `durable`, retention.
    """
    _check_name(request.name)
    return Declaration(
        request.name,
        retain=_retain(request),
        contract_texts=dict(request.contract),
        contract=_native.Contract(dict(request.contract)) if request.contract else None,
        owner=owner,
    )


def compare(subscriptions: SubscriptionTable, declaration: Declaration) -> Iterator[None]:
    """Compare with all that is expected, in slices when that is very much.

    A subscription that opens between two slices is compared too: at the end all agree.

    Raises:
        ContractMismatch: an open subscription expects other tensors.
    """
    contract = declaration.contract
    if contract is None:
        return
    with subscriptions.arrivals.gathered() as fresh:
        expecting, index = subscriptions.contracted(), 0
        while index < len(expecting) or fresh:
            each = expecting[index] if index < len(expecting) else fresh.popleft()
            open_ = each.stream.subscriptions.get(each.number) is each
            if open_ and each.contract and intersects(declaration.name, each.pattern):
                difference = contract.unify(each.contract)
                if difference is not None:
                    raise ContractMismatch(
                        f"a subscription to {each.pattern!r} expects other tensors:\n{difference}",
                        details={"topic": declaration.name, "pattern": each.pattern},
                    )
            index += 1
            if index % _SUBSCRIPTIONS_A_SLICE == 0:
                yield


def _check_name(name: str) -> None:
    """Refuse names that are not well formed or not for clients to declare."""
    if is_pattern(name):
        _native.check_pattern(name)
    else:
        _native.check_topic(name)
    head = first_token(name)
    if head in (NODE_PREFIX, *RESERVED) or head.startswith("_"):
        raise Denied(f"names under {head!r} are reserved", details={"topic": name})
    if name == OTHER_CLASS:
        raise BadRequest("the class of all topics cannot be declared", details={"field": "name"})


def _retain(request: bus_pb2.CreateTopicRequest) -> bool:
    """Return whether the topic keeps its last message."""
    if (
        request.kind == bus_pb2.TOPIC_KIND_DURABLE
        or request.HasField("keep_s")
        or request.HasField("keep_bytes")
    ):
        raise Unsupported(
            "durable topics and retention are not in this node", details={"feature": "durable"}
        )
    if request.kind not in bus_pb2.TopicKind.values():
        raise BadRequest(f"{request.kind} is no kind of topic", details={"field": "kind"})
    return request.kind == bus_pb2.TOPIC_KIND_LATEST
