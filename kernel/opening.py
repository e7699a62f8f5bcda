"""What a subscription asks for, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sira import _native
from sira.kernel.authorize import Readable
from sira.kernel.errors import (
    BadRequest,
    Conflict,
    ContractMismatch,
    Denied,
    QuotaExceeded,
    Unsupported,
)
from sira.kernel.subscriptions import Subscription
from sira.kernel.topics import (
    NODE_PREFIX,
    REPLY_PREFIX,
    Declaration,
    check_reply_topic,
    first_token,
    intersects,
    is_pattern,
)
from sira.v1 import bus_pb2

if TYPE_CHECKING:
    from sira.kernel.bus import Bus
    from sira.kernel.streams import SubscribeStream

_GROUP_CHARS_MAX = 255
_DECLARED_A_SLICE = 200  # 1 µs each that does not match, some µs that does
_WINDOW_MESSAGES_MAX = 1 << 20
_WINDOW_BYTES_MAX = 1 << 40


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to open: defaults filled in, limits applied."""

    overflow: int
    window_messages: int
    window_bytes: int
    replaced: list[Subscription]  # the same client's, on an older stream: it has come back
    readable: tuple[str, ...] = ()  # where the pattern was cut: what is left of it
    cut: tuple[str, ...] = ()  # and what was taken out of it


def check_open(bus: Bus, stream: SubscribeStream, request: bus_pb2.Open) -> Wanted:
    """Check one Open against the rules of the bus, but for its contract; nothing is changed.

    Raises:
        BadTopic, BadRequest: not well formed.
        Unsupported: options of durable topics.
        Conflict: the number is taken in this stream.
        Denied: nothing of it may be read, or another client's private reply topic.
        QuotaExceeded: subscriptions_per_client_max.
    """
    client, pattern, settings = stream.client, request.pattern, bus.settings
    if request.subscription == 0:
        raise BadRequest(
            "subscription 0 is none: number them from 1", details={"field": "subscription"}
        )
    if request.subscription in stream.subscriptions or request.subscription in stream.opening:
        raise Conflict(f"this stream has a subscription {request.subscription} already")
    if request.start or request.ack_wait_ms or request.max_deliver:
        raise Unsupported(
            "start, ack_wait and max_deliver need a durable topic, and this node has none",
            details={"feature": "durable"},
        )
    _native.check_pattern(pattern)
    _check_group(request.group)
    if request.overflow not in bus_pb2.Overflow.values():
        raise BadRequest(f"{request.overflow} is no overflow rule", details={"field": "overflow"})
    asked = client.subscription_count + sum(len(each.opening) for each in client.subscribes)
    if client.number and asked >= settings.subscriptions_per_client_max:
        limit = settings.subscriptions_per_client_max
        raise QuotaExceeded(
            f"subscriptions_per_client_max = {limit} is reached",
            details={"setting": "subscriptions_per_client_max"},
        )
    readable = _readable(bus, stream, pattern)
    replaced = _check_private(bus, stream, pattern)
    overflow = request.overflow or bus_pb2.OVERFLOW_BLOCK
    if first_token(pattern) == NODE_PREFIX and overflow == bus_pb2.OVERFLOW_BLOCK:
        overflow = bus_pb2.OVERFLOW_DROP  # the node never waits to say what it knows
    return Wanted(
        overflow=overflow,
        window_messages=min(
            request.window_messages or settings.window_messages, _WINDOW_MESSAGES_MAX
        ),
        window_bytes=min(request.window_bytes or settings.window_bytes, _WINDOW_BYTES_MAX),
        replaced=replaced,
        readable=readable.allowed if readable.allowed != (pattern,) else (),
        cut=readable.cut,
    )


def _readable(bus: Bus, stream: SubscribeStream, pattern: str) -> Readable:
    """Return which part of the pattern this stream may read; a whole private reply topic.

    Raises:
        Denied: nothing of it.
    """
    who = stream.credential
    if stream.client is bus.node or first_token(pattern) == REPLY_PREFIX:
        return Readable((pattern,))
    if not is_pattern(pattern):
        bus.may(who, "subscribe", pattern)
        return Readable((pattern,))
    refusal = bus.access.reads(who, pattern)
    if refusal is not None:
        raise Denied(
            f"{who.principal} may read nothing of {pattern}: {refusal.reason}",
            details={"action": "subscribe", "resource": pattern, "rule": refusal.reason},
        )
    return bus.access.readable(who, pattern)


def _check_group(group: str) -> None:
    if len(group) > _GROUP_CHARS_MAX or not group.isprintable():
        raise BadRequest(
            f"a group's name is printable and at most {_GROUP_CHARS_MAX} characters",
            details={"field": "group"},
        )


def _check_private(bus: Bus, stream: SubscribeStream, pattern: str) -> list[Subscription]:
    """Refuse a private reply topic of another client; return the older ones of this client."""
    head = first_token(pattern)
    if not head.startswith("_"):
        return []
    if head != REPLY_PREFIX:
        raise Denied(f"names under {head!r} are reserved", details={"pattern": pattern})
    check_reply_topic(pattern)
    older = bus.subscriptions.of_pattern(pattern)
    if any(each.client is not stream.client for each in older):
        raise Denied(f"{pattern!r} is private to another client", details={"pattern": pattern})
    return older


def check_contract(
    bus: Bus, stream: SubscribeStream, request: bus_pb2.Open
) -> Generator[None, None, _native.Contract | None]:
    """Check what an Open expects, once it is known to be allowed, and return that.

    Raises:
        BadRequest: the contract cannot be read.
        ContractMismatch: a declared topic, or class, of the pattern contradicts it.
        SiraError: see `check_open`.
    """
    if not request.contract:
        return None
    check_open(bus, stream, request)
    contract = _native.Contract(dict(request.contract))
    yield from _check_declared(bus, request.pattern, contract)
    return contract


def _check_declared(bus: Bus, pattern: str, contract: _native.Contract) -> Iterator[None]:
    """Compare with all that is declared, in slices when that is very much.

    What is declared between two slices is compared too: at the end all agree.
    """
    declarations = bus.topics.declarations
    if not is_pattern(pattern):
        _agree(declarations.effective(pattern), pattern, contract)
        return
    with declarations.arrivals.gathered() as fresh:
        names, index = declarations.names(), 0
        while index < len(names) or fresh:
            name = names[index] if index < len(names) else fresh.popleft()
            declared = declarations.get(name)
            if declared is not None and declared.contract is not None and intersects(pattern, name):
                _agree(declared, pattern, contract)
            index += 1
            if index % _DECLARED_A_SLICE == 0:
                yield


def _agree(declared: Declaration, pattern: str, contract: _native.Contract) -> None:
    difference = declared.contract.unify(contract) if declared.contract else None
    if difference is not None:
        raise ContractMismatch(
            f"{declared.name!r} declares other tensors than this subscription expects:\n"
            f"{difference}",
            details={"topic": declared.name, "pattern": pattern},
        )
