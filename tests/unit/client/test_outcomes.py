"""What the end of a call says of the agent: a table; and how ends are gathered."""

from __future__ import annotations

import asyncio

import pytest

from sira.client.outcomes import (
    FAILED,
    LATE,
    NOBODYS,
    REPORTED_MAX,
    TALLIES_MAX,
    WORKED,
    Tallies,
    kind_of,
)
from sira.kernel import errors


@pytest.mark.parametrize(
    ("error", "given_s", "kind"),
    [
        (None, 0.001, WORKED),
        (errors.HandlerFailed("it raised"), 0.001, FAILED),
        (errors.PeerLost("it died"), None, FAILED),
        (errors.Timeout("no answer"), 10.0, LATE),
        (errors.Timeout("no answer"), None, LATE),
        (errors.Timeout("no answer"), 1.0, LATE),
        (errors.Timeout("no answer"), 0.001, NOBODYS),  # the caller's own haste
        (errors.BadRequest("no such tensor"), 10.0, NOBODYS),
        (errors.ContractMismatch("f32, not f64"), 10.0, NOBODYS),
        (errors.MessageTooLarge("17 GiB"), 10.0, NOBODYS),
        (errors.NoMatch("nobody listens"), 10.0, NOBODYS),
        (errors.Denied("not you"), 10.0, NOBODYS),
        (errors.Unauthenticated("who are you"), 10.0, NOBODYS),
        (errors.NotFound("its answer"), 10.0, NOBODYS),
        (errors.Expired("ttl"), 10.0, NOBODYS),
        (errors.QueueFull("later"), 10.0, NOBODYS),
        (errors.RateLimited("later"), 10.0, NOBODYS),
        (errors.NodeDraining("elsewhere"), 10.0, NOBODYS),
        (errors.Unreachable("the node"), 10.0, NOBODYS),
        (errors.ConnectionClosed("by us"), 10.0, NOBODYS),
        (errors.OutcomeUnknown("who knows"), 10.0, NOBODYS),
        (errors.Internal("the node's"), 10.0, NOBODYS),
        (asyncio.CancelledError(), 10.0, NOBODYS),
        (TypeError("no body"), 10.0, NOBODYS),
    ],
)
def test_an_end_speaks_against_the_agent(
    error: BaseException | None, given_s: float | None, kind: str
) -> None:
    assert kind_of(error, given_s) == kind


def test_what_is_told_is_forgotten_and_comes_in_messages_of_a_bounded_size() -> None:
    tallies = Tallies()
    for number in range(REPORTED_MAX + 1):
        tallies.of(f"a{number}", "x").worked += 2
    assert tallies.of("a0", "x").note(errors.HandlerFailed("no"), 1.0)
    assert not tallies.of("a0", "x").note(errors.Denied("no"), 1.0)
    first, rest = tallies.take()
    assert (len(first.outcomes), len(rest.outcomes)) == (REPORTED_MAX, 1)
    told = first.outcomes[0]
    assert (told.agent, told.worked, told.failed, told.late) == ("a0", 2, 1, 0)
    assert tallies.take() == []


def test_of_very_many_capabilities_the_latest_are_counted() -> None:
    tallies = Tallies()
    for number in range(TALLIES_MAX + 5):
        tallies.of(f"a{number}", "x").worked += 1
    assert sum(len(each.outcomes) for each in tallies.take()) == TALLIES_MAX
