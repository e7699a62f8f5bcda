"""`sira status`."""

from __future__ import annotations

import sys
from argparse import Namespace

from sira.cli.ledger import ledger_row, unexplained
from sira.cli.link import Stop, connected
from sira.cli.output import EXIT_UNACCOUNTED, Output, Result, bytes_text, duration_text
from sira.client.address import url_of as to_url

_SHOWN_MAX = 40


async def status(args: Namespace, out: Output, stop: Stop) -> Result:
    """Say whether the node is up, what it carries and whether its ledger balances."""
    async with connected(args, timeout_s=args.wait) as bus:
        stats = await bus.stats(prometheus=args.prometheus)
        found = await bus.ledger()
        hello = bus.node
        url = to_url(bus.connection.address, tls=bus.url.startswith("siras:"))
    rows = [ledger_row(row) for row in found.rows]
    missing = sum(unexplained(row) for row in rows)
    balanced = bool(found.balanced) and all(row["balanced"] for row in rows)
    values = dict(stats.values)
    data = {
        "url": url,
        "node": hello.node,
        "version": hello.version,
        "uptime_ns": stats.uptime_ns,
        "principal": hello.principal,
        "tenant": hello.tenant,
        "lanes": list(hello.lanes),
        "features": {feature.name: feature.version for feature in hello.features},
        "clients": len(stats.clients),
        "subscriptions": len(stats.subscriptions),
        "topics": sum(not row["class_row"] for row in rows),
        "balanced": balanced,
        "values": values,
    }
    if args.prometheus:
        data["prometheus"] = stats.prometheus
        if not out.as_json:
            sys.stdout.write(stats.prometheus)
            return Result(data)
    out.text(f"{hello.node} at {url}: up {duration_text(stats.uptime_ns)}")
    out.text(f"  version {hello.version}, lane {', '.join(hello.lanes)}")
    out.text(f"  you are {hello.principal}")
    out.text(f"  {len(stats.clients)} clients, {len(stats.subscriptions)} subscriptions")
    delivered = sum(row["delivered"] for row in rows)
    published = sum(row["published"] for row in rows)
    queued = bytes_text(sum(client.queued_bytes for client in stats.clients))
    out.text(f"  {published} published, {delivered} delivered, {queued} waiting")
    stalled = [sub for sub in stats.subscriptions if sub.stalled]
    for sub in stalled[:_SHOWN_MAX]:
        out.text(f"  STALLED: {sub.client} on {sub.pattern}, {sub.pending} pending")
    out.text(
        "  ledger balanced: every message is accounted for"
        if balanced
        else f"  ledger NOT balanced: {missing} unexplained; see `sira ledger`"
    )
    return Result(data, 0 if balanced else EXIT_UNACCOUNTED)
