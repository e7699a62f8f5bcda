"""`sira topics`: list, create, delete."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from sira.cli.body import pairs
from sira.cli.link import Stop, connected
from sira.cli.output import Output, Result


async def list_topics(args: Namespace, out: Output, stop: Stop) -> Result:
    """List topics, declared and in use."""
    from rich.table import Table

    table = Table("topic", "kind", "contract", "published", "subscriptions", "of")
    for column in table.columns[3:5]:
        column.justify = "right"
    out.start(pattern=args.pattern)
    async with connected(args) as bus:
        topics = await bus.topics.list(args.pattern)
    for topic in topics:
        found = topic_row(topic)
        out.item(found)
        table.add_row(
            found["name"],
            found["kind"],
            " ".join(f"{name}={spec}" for name, spec in found["contract"].items()),
            str(found["published"]),
            str(found["subscriptions"]),
            found["class_name"] or ("declared" if found["declared"] else "in use"),
        )
    if topics:
        out.show(table)
    else:
        out.text(f"no topic matches {args.pattern}")
    return Result({"count": len(topics)})


async def create(args: Namespace, out: Output, stop: Stop) -> Result:
    """Declare a topic, or by a pattern a class of topics."""
    contract = pairs(args.contract, what="contract")
    async with connected(args) as bus:
        topic = await bus.topics.create(args.topic, kind=args.kind, contract=contract or None)
    found = topic_row(topic)
    out.text(f"{found['name']}: {found['kind']}")
    return Result(found)


async def delete(args: Namespace, out: Output, stop: Stop) -> Result:
    """Delete a topic."""
    async with connected(args) as bus:
        await bus.topics.delete(args.topic)
    out.text(f"{args.topic}: deleted")
    return Result({"name": args.topic})


def topic_row(topic: Any) -> dict[str, Any]:
    """Return a topic as JSON has it."""
    return {
        "name": topic.name,
        "kind": topic.kind,
        "contract": dict(topic.contract),
        "owned": topic.owned,
        "class_name": topic.class_name,
        "declared": topic.declared,
        "published": topic.published,
        "subscriptions": topic.subscriptions,
    }
