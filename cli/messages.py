"""A message as JSON has it, and as people read it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sira import _native
from sira.cli.output import bytes_text, printable
from sira.cli.tensors import describe, describe_line, save_npz
from sira.kernel.errors import BadRequest

_TEXT_SHOWN_CHARS = 200


def row(message: _native.Message, *, saved: Path | None = None) -> dict[str, Any]:
    """Return what `sub` and `request` say about a message: envelope, tensors described, text."""
    text, tensors = body_of(message)
    return {
        "topic": message.topic,
        "id": message.id,
        "source": message.source,
        "time_ns": message.time_ns,
        "headers": dict(message.headers),
        "content_type": message.content_type,
        "priority": message.priority,
        "payload_bytes": message.payload_bytes,
        "tensors": {name: describe(array) for name, array in tensors.items()},
        "text": text,
        "saved": None if saved is None else str(saved),
    }


def body_of(message: _native.Message) -> tuple[str | None, Mapping[str, Any]]:
    """Return (text, tensors): one of them is there, neither for bytes that are no text."""
    if len(message):
        return None, dict(message.items())
    try:
        return str(message.text), {}
    except BadRequest:  # bytes: their count is told
        return None, {}


def lines(found: Mapping[str, Any], *, full: bool, title: str = "topic") -> str:
    """Return the lines for people about one message, from its `row`.

    Args:
        title: the key shown first: a reply's topic is a private one, its `source` says more.
    """
    clock = time.strftime("%H:%M:%S", time.localtime(found["time_ns"] / 1e9))
    head = f"{clock} {printable(found[title]) or found['topic']}"
    if found["priority"]:
        head += f"  priority {found['priority']}"
    if found["headers"]:
        pairs = (f"{key}={value}" for key, value in sorted(found["headers"].items()))
        head += "  " + printable(" ".join(pairs))
    if found["text"] is not None:
        text = printable(found["text"])
        if not full and len(text) > _TEXT_SHOWN_CHARS:
            text = f"{text[:_TEXT_SHOWN_CHARS]}... ({bytes_text(found['payload_bytes'])})"
        head += f"  {text}"
    elif not found["tensors"]:
        head += f"  {bytes_text(found['payload_bytes'])} of bytes"
    shown = [head]
    shown += [f"    {describe_line(name, tensor)}" for name, tensor in found["tensors"].items()]
    if found["saved"]:
        shown.append(f"    saved to {found['saved']}")
    return "\n".join(shown)


def save_npz_of(message: _native.Message, path: Path) -> Path | None:
    """Save the message's tensors; None when it has none."""
    _, tensors = body_of(message)
    if not tensors:
        return None
    save_npz(path, tensors)
    return path
