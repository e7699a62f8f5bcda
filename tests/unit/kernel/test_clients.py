"""Streams of one client on the bus: who leaves when, and what that takes along."""

from __future__ import annotations

from sira.kernel.bus import Bus
from sira.kernel.clients import Hello
from sira.kernel.errors import HandlerFailed, QuotaExceeded, from_code
from sira.kernel.identity import Principal
from sira.kernel.settings import load

ASKER = Principal("local", "default", "user", "tester")


def new_bus() -> Bus:
    settings = load(flags={"data_dir": "/nonexistent"}, environ={})
    return Bus(settings, clock_ns=lambda: 1, soon=lambda call: call())


def test_a_client_that_comes_back_before_its_lost_stream_has_ended_stays_the_same_client() -> None:
    bus = new_bus()
    hello = Hello(id="a" * 32)
    client = bus.join(hello, ASKER, "test", 1)
    first = bus.open_publish(client, bus.self, wake=lambda: None, hello=hello, now_ns=1)
    again = Hello(id="a" * 32, resume_epoch=bus.epoch, resume_messages=3)
    assert bus.join(again, ASKER, "test", 2) is client
    second = bus.open_publish(client, bus.self, wake=lambda: None, hello=again, now_ns=2)
    assert bus.clients.get(hello.id) is client, "its stream is open, and the node forgot it"
    assert list(client.publishes) == [second]
    assert bus.clients.lingering == 0
    first.close(3)
    assert bus.clients.get(hello.id) is client
    second.close(4)
    assert bus.clients.get(hello.id) is None
    assert bus.clients.lingering == 1
    bus.hub.close()


def test_codes_that_peers_make_up_take_no_memory_in_the_counts() -> None:
    bus = new_bus()
    for number in range(1_000):
        bus.refused(ASKER, "call", "/sira.v1.Bus/Request", from_code(f"MADE_UP_{number}"))
    bus.refused(ASKER, "call", "/sira.v1.Bus/Request", HandlerFailed())
    bus.refused(ASKER, "call", "x", QuotaExceeded(details={"setting": "listen"}))  # no number
    assert bus.refusals["call", "HANDLER_FAILED"] == 1
    assert len(bus.refusals) == 3
    assert sum(bus.refusals.values()) == 1_002
    bus.hub.close()
