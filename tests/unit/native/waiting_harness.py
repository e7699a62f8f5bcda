"""What tests of messages that wait for room within a limit share."""

from __future__ import annotations

from sira import _native
from sira.v1 import message_pb2

from .hub_harness import Bench


def text(made: message_pb2.Message) -> str:
    return made.tensors[0].data.decode()


def pass_time(bench: Bench, until_ns: int) -> None:
    """Let time pass as the node's timer does: to each moment that something is due."""
    while 0 < (due_ns := bench.hub.due_ns) <= until_ns:
        bench.now_ns = max(bench.now_ns + 1, due_ns)
        bench.hub.release(bench.now_ns)
    bench.now_ns = max(bench.now_ns, until_ns)
    bench.tick()


def of_one_topic(bench: Bench, slow: str, *buckets: _native.Bucket) -> None:
    """Let the limits hold for one topic only."""
    resolve = bench.resolve

    def limited(topic: str) -> _native.Route:
        bench.buckets = buckets if topic == slow else ()
        return resolve(topic)

    bench.resolve = limited  # type: ignore[method-assign]
