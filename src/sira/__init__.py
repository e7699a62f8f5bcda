"""Sira: a tensor-native microkernel message bus.

Owns the public names (`sira.connect`, `sira.Agent`, ...), which live in `sira.client` and are
loaded when first asked for: `import sira` alone starts nothing and reads neither gRPC nor numpy.
Refuses to know how any of them works. Read `_PUBLIC` first.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sira._native import Receipt, keep_memory_warm
    from sira.client.agent import Agent
    from sira.client.bus import Bus, connect
    from sira.client.call_receipt import CallReceipt, SyncCallReceipt
    from sira.client.capability import Capability
    from sira.client.info import Explanation, Ledger, LedgerRow, Topic
    from sira.client.matches import (
        AgentChange,
        AgentInfo,
        AgentState,
        Learned,
        Match,
        Matches,
        Reason,
    )
    from sira.client.message import Message, SyncMessage
    from sira.client.publisher import Publisher
    from sira.client.reply_stream import ReplyStream
    from sira.client.retry import Retry
    from sira.client.security import Security
    from sira.client.service import Service
    from sira.client.subscription import Subscription
    from sira.client.sync import SyncBus, connect_sync
    from sira.client.sync_parts import SyncPublisher, SyncReplyStream
    from sira.client.sync_subscription import SyncSubscription
    from sira.kernel.errors import (
        BadRequest,
        BadTopic,
        Conflict,
        ContractMismatch,
        Denied,
        HandlerFailed,
        NoMatch,
        NotFound,
        OutcomeUnknown,
        PeerLost,
        QueueFull,
        SiraError,
        StreamTruncated,
        Timeout,
        Unreachable,
        Unsupported,
    )

__version__ = "0.1.0"

# gRPC's core tells stderr about each lost connection; we tell the logger `sira`. It reads this when
# it is loaded, and whoever sets it keeps their own choice.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# gRPC's fork handlers cannot stop asyncio's poller, and aborted 5 of 120 forked children (1.85). A
# child must not use gRPC either way; without the handlers it may do everything else.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# In 1.83 calls that end while they wait for a place on a connection (its server takes so many at
# once) keep the place that they never had, until no call starts there any more.
os.environ.setdefault("GRPC_EXPERIMENTS", "-subchannel_connection_scaling")

# Public name -> the module that defines it. For type checkers the same names are imported from the
# same modules above.
_PUBLIC: dict[str, str] = {
    "Agent": "sira.client.agent",
    "AgentChange": "sira.client.matches",
    "AgentInfo": "sira.client.matches",
    "AgentState": "sira.client.matches",
    "BadRequest": "sira.kernel.errors",
    "BadTopic": "sira.kernel.errors",
    "Bus": "sira.client.bus",
    "CallReceipt": "sira.client.call_receipt",
    "Capability": "sira.client.capability",
    "Conflict": "sira.kernel.errors",
    "ContractMismatch": "sira.kernel.errors",
    "Denied": "sira.kernel.errors",
    "Explanation": "sira.client.info",
    "HandlerFailed": "sira.kernel.errors",
    "Learned": "sira.client.matches",
    "Ledger": "sira.client.info",
    "LedgerRow": "sira.client.info",
    "Match": "sira.client.matches",
    "Matches": "sira.client.matches",
    "Message": "sira.client.message",
    "NoMatch": "sira.kernel.errors",
    "NotFound": "sira.kernel.errors",
    "OutcomeUnknown": "sira.kernel.errors",
    "PeerLost": "sira.kernel.errors",
    "Publisher": "sira.client.publisher",
    "QueueFull": "sira.kernel.errors",
    "Reason": "sira.client.matches",
    "Receipt": "sira._native",
    "ReplyStream": "sira.client.reply_stream",
    "Retry": "sira.client.retry",
    "Security": "sira.client.security",
    "Service": "sira.client.service",
    "SiraError": "sira.kernel.errors",
    "StreamTruncated": "sira.kernel.errors",
    "Subscription": "sira.client.subscription",
    "SyncBus": "sira.client.sync",
    "SyncCallReceipt": "sira.client.call_receipt",
    "SyncMessage": "sira.client.message",
    "SyncPublisher": "sira.client.sync_parts",
    "SyncReplyStream": "sira.client.sync_parts",
    "SyncSubscription": "sira.client.sync_subscription",
    "Timeout": "sira.kernel.errors",
    "Topic": "sira.client.info",
    "Unreachable": "sira.kernel.errors",
    "Unsupported": "sira.kernel.errors",
    "connect": "sira.client.bus",
    "connect_sync": "sira.client.sync",
    "keep_memory_warm": "sira._native",
}

__all__ = [
    "Agent",
    "AgentChange",
    "AgentInfo",
    "AgentState",
    "BadRequest",
    "BadTopic",
    "Bus",
    "CallReceipt",
    "Capability",
    "Conflict",
    "ContractMismatch",
    "Denied",
    "Explanation",
    "HandlerFailed",
    "Learned",
    "Ledger",
    "LedgerRow",
    "Match",
    "Matches",
    "Message",
    "NoMatch",
    "NotFound",
    "OutcomeUnknown",
    "PeerLost",
    "Publisher",
    "QueueFull",
    "Reason",
    "Receipt",
    "ReplyStream",
    "Retry",
    "Security",
    "Service",
    "SiraError",
    "StreamTruncated",
    "Subscription",
    "SyncBus",
    "SyncCallReceipt",
    "SyncMessage",
    "SyncPublisher",
    "SyncReplyStream",
    "SyncSubscription",
    "Timeout",
    "Topic",
    "Unreachable",
    "Unsupported",
    "__version__",
    "connect",
    "connect_sync",
    "keep_memory_warm",
]


def __getattr__(name: str) -> object:
    """Load a public name on its first use and keep it."""
    try:
        module = _PUBLIC[name]
    except KeyError:
        raise AttributeError(f"module 'sira' has no attribute {name!r}") from None
    value: object = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
