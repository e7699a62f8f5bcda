"""`sira token`: tokens are made, narrowed, looked at and withdrawn without a node."""

from __future__ import annotations

import math
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterable

from sira.cli.output import Output, Result, UsageError
from sira.cli.tls import date_text, principal_of, withdraw
from sira.kernel import toml_table
from sira.kernel.trust import tokens
from sira.kernel.trust.blocks import TOKEN_CHARS_MAX
from sira.kernel.trust.checks import Right
from sira.kernel.trust.secrets import read_secret_text, write_secret


def create(args: Namespace, out: Output) -> Result:
    """Make a token."""
    principal = principal_of(args.principal, args.cluster)
    root = tokens.parse_key_file(read_secret_text(args.key))
    out.start(principal=str(principal))
    rights = (Right(tuple(args.action), tuple(args.topic)),)
    token = tokens.mint(root, principal, rights=rights, expires_s=time.time() + args.expires)
    return _made(token, args, out)


def narrow(args: Namespace, out: Output) -> Result:
    """Make a token that may do less."""
    token = _given(args.token)
    out.start()
    expires_s = math.inf if args.expires is None else time.time() + args.expires
    narrowed = tokens.narrow(
        token,
        actions=args.action,
        topics=args.topic,
        expires_s=expires_s,
        public_keys=_keys(args.keys),
    )
    return _made(narrowed, args, out)


def show(args: Namespace, out: Output) -> Result:
    """Show what a token says."""
    token = _given(args.token)
    out.start()
    told = tokens.describe(token, public_keys=_keys(args.keys))
    out.text(f"principal  {told.principal}")
    out.text(f"ends       {date_text(_ns(told.window.expires_s))}")
    out.text(f"signature  {'of a key given' if told.verified else 'not verified: no --keys'}")
    for index, block in enumerate(told.blocks):
        data = {
            "block": index,
            "id": block.id,
            "expires_ns": _ns(block.window.expires_s),
            "rights": [[_right(right) for right in each] for each in block.rights],
            "source": block.source,
        }
        lines = [f"block {index}    {block.id}"]
        lines += [f"           {line}" for line in _sentences(block)]
        out.item(data, "\n".join(lines))
    result = {
        "principal": told.principal,
        "expires_ns": _ns(told.window.expires_s),
        "blocks": len(told.blocks),
        "verified": told.verified,
    }
    return Result(result)


def revoke(args: Namespace, out: Output) -> Result:
    """Withdraw a token."""
    if args.token and args.token.startswith(("biscuit:", "jwt:")):
        if args.whole:
            raise UsageError("--whole needs the token: an id does not say what it came from")
        return withdraw([args.token], args, out)
    blocks = tokens.describe(_given(args.token)).blocks
    return withdraw([blocks[0 if args.whole else -1].id], args, out)


def _made(token: str, args: Namespace, out: Output) -> Result:
    told = tokens.describe(token, public_keys=_keys(getattr(args, "keys", None)))
    if args.out:
        write_secret(args.out, token.encode() + b"\n", replace=args.force)
        out.text(f"{args.out} speaks for {told.principal}")
    else:
        out.text(token)
    data = {
        "token": None if args.out else token,
        "file": str(args.out) if args.out else None,
        "principal": told.principal,
        "id": told.blocks[-1].id,
        "expires_ns": _ns(told.window.expires_s),
    }
    return Result(data)


def _given(text: str | None) -> str:
    """Return the token that an argument names; the environment's where there is none."""
    if text == "-":
        return sys.stdin.read(TOKEN_CHARS_MAX + 2).strip()
    if text and text.startswith("@"):
        return read_secret_text(text[1:])
    if text:
        return text
    if os.environ.get("SIRA_TOKEN"):
        return os.environ["SIRA_TOKEN"].strip()
    if os.environ.get("SIRA_TOKEN_FILE"):
        return read_secret_text(os.environ["SIRA_TOKEN_FILE"])
    raise UsageError("no token", help="name it, @FILE or -, or set SIRA_TOKEN or SIRA_TOKEN_FILE")


def _keys(path: str | None) -> tuple[str, ...]:
    return tokens.parse_keys_file(toml_table.read_text(path)) if path else ()


def _ns(at_s: float) -> int | None:
    return None if math.isinf(at_s) else int(at_s) * 10**9


def _right(right: Right) -> dict[str, list[str]]:
    return {"actions": list(right.actions), "topics": list(right.topics)}


def _sentences(block: tokens.Block) -> Iterable[str]:
    """Say in words what can be said in words, and the rest as it stands."""
    if not math.isinf(block.window.expires_s):
        yield f"until {date_text(_ns(block.window.expires_s))}"
    for alternatives in block.rights:
        yield "only " + "; or ".join(
            f"{', '.join(right.actions) or 'anything'} on {', '.join(right.topics) or 'any topic'}"
            for right in alternatives
        )
    yield from block.unread
