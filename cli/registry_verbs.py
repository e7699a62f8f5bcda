"""Verbs of the registry: a part of the table in verbs.py."""

from __future__ import annotations

from sira.cli import schemas as s
from sira.cli.output import EXIT_UNACCOUNTED
from sira.cli.table import Argument, Verb

_CAPABILITY = Argument(name="--capability", metavar="NAME", help="by its exact name, without words")
_KIND = Argument(name="--kind", metavar="KIND", help="tool, device, service, ... (agent)")
_LABELS = Argument(
    name="--labels", many=True, metavar="KEY=VALUE", help="that an agent must have; repeatable"
)
_VERSION = Argument(name="--version", metavar="RANGE", help='of the agent, as ">=1.2 <2"')
_A2A = Argument(name="--a2a", kind="boolean", help="as an Agent Card of the A2A protocol")
_NAME = Argument(name="name", required=True, help="the agent's name")

_REASON = s.record(part=s.STRING, value=s.NUMBER, text=s.STRING)
MATCH = s.record(
    agent=s.STRING,
    kind=s.STRING,
    capability=s.STRING,
    topic=s.STRING,
    fits=s.BOOLEAN,
    score=s.NUMBER,
    confidence=s.NUMBER,
    status=s.STRING,
    in_flight=s.COUNT,
    version=s.STRING,
    effects=s.STRING,
    reasons=s.listed(_REASON),
)
FOUND = s.record(
    count=s.COUNT,
    no_match=s.BOOLEAN,
    reason=s.STRING,
    is_shortlist=s.BOOLEAN,
    revision=s.COUNT,
    embedder=s.STRING,
)
CALLED = s.record(
    agent=s.STRING,
    capability=s.STRING,
    topic=s.STRING,
    score=s.NUMBER,
    confidence=s.NUMBER,
    is_shortlist=s.BOOLEAN,
    lane=s.STRING,
    tries=s.COUNT,
    round_trip_ns=s.COUNT,
)
AGENT = s.record(
    name=s.STRING,
    kind=s.STRING,
    status=s.one_of("up", "suspect", "down", "draining", "unknown"),
    reason=s.STRING,
    since_ms=s.COUNT,
    beat_age_ms=s.COUNT,
    in_flight=s.COUNT,
    waiting=s.COUNT,
    lag_ms=s.COUNT,
    max_in_flight=s.COUNT,
    version=s.STRING,
    description=s.STRING,
    labels=s.STRINGS,
    capabilities=s.listed(s.STRING),
    endpoints=s.listed(s.STRING),
    principal=s.STRING,
    generation=s.COUNT,
)
LEARNED = s.record(
    kind=s.STRING,
    version=s.STRING,
    capabilities=s.COUNT,
    examples=s.COUNT,
    held_out=s.COUNT,
    right=s.NUMBER,
    trained_ns=s.COUNT,
    took_ms=s.COUNT,
    embedder=s.STRING,
)
CARD = s.record(name=s.STRING, file=s.maybe(s.STRING), card={"type": "object"})
IMPORTED = s.record(
    name=s.STRING, generation=s.COUNT, revision=s.COUNT, capabilities=s.listed(s.STRING)
)


def registry_verbs(sent: tuple[Argument, ...], shown: tuple[Argument, ...]) -> tuple[Verb, ...]:
    """Return the verbs.

    Args:
        sent: arguments that say what a message is, the body first, as of `request`.
        shown: those that say how the answer is shown.
    """
    return (
        Verb(
            name="find",
            summary="find who can do what the words ask for, and say why",
            run="find:find",
            arguments=(
                Argument(name="text", help="what is to be done, in words"),
                _CAPABILITY,
                Argument(
                    name="--k", kind="integer", default=5, minimum=1, help="how many at most (5)"
                ),
                _LABELS,
                Argument(
                    name="--takes",
                    many=True,
                    metavar="NAME=CONTRACT",
                    help='a tensor that will be sent, as "image=f32[512,512]"; repeatable',
                ),
                _KIND,
                _VERSION,
                Argument(name="--all", kind="boolean", help="also those that are draining or down"),
                Argument(
                    name="--explain", kind="boolean", help="each score's parts, and who came next"
                ),
            ),
            result=FOUND,
            item=MATCH,
            exits={EXIT_UNACCOUNTED: "nobody fits"},
        ),
        Verb(
            name="call",
            summary="have somebody do what the words ask for, and show the answer",
            run="find:call",
            arguments=(
                Argument(name="text", help="what is to be done, in words"),
                *sent,
                _CAPABILITY,
                _LABELS,
                _KIND,
                _VERSION,
                Argument(
                    name="--idempotent",
                    kind="boolean",
                    help="doing it twice does no harm: another is asked where no answer comes",
                ),
                *shown,
            ),
            effects="once",
            result=CALLED,
            item=s.MESSAGE,
        ),
        Verb(
            name="agents list",
            summary="list who is registered, how they are, and what they can do",
            run="agents:list_agents",
            arguments=(
                Argument(name="name", help="of one alone"),
                Argument(name="--kind", metavar="KIND", help="of this kind alone (all)"),
                _LABELS,
                Argument(name="--watch", kind="boolean", help="follow what changes"),
            ),
            result=s.COUNTED,
            item=AGENT,
            endless=True,
            default=True,
        ),
        Verb(
            name="agents learned",
            summary="show what the node has learned from agents' examples, and what it is worth",
            run="agents:learned",
            result=s.COUNTED,
            item=LEARNED,
        ),
        Verb(
            name="agents export",
            summary="show an agent as others know agents",
            run="agents:export",
            arguments=(
                _NAME,
                _A2A,
                Argument(name="--out", kind="path", metavar="FILE", help="write it there"),
            ),
            result=CARD,
        ),
        Verb(
            name="agents import",
            summary="register an agent from elsewhere while this runs, so that it is found",
            run="agents:import_card",
            arguments=(
                Argument(name="file", kind="path", required=True, help="its Agent Card, JSON"),
                _A2A,
                Argument(name="--name", metavar="NAME", help="its name here (made of the card's)"),
                Argument(
                    name="--once",
                    kind="boolean",
                    help="register it and end: it is down when its lease is over",
                ),
            ),
            effects="idempotent",
            result=IMPORTED,
            item=IMPORTED,
            endless=True,
        ),
    )
