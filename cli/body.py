"""From the arguments of `pub` and `request` to the body and the envelope of a message."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from sira.cli.output import UsageError
from sira.cli.tensors import load_npz, make_tensor

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


def read_body(args: Namespace) -> tuple[Any, str]:
    """Return (body, content type) that BODY and --tensor describe.

    The body is a mapping of tensors, text or bytes. Tensors of files and of --tensor come together
    in one message; a BODY of text goes with no tensors.

    Raises:
        UsageError: both text and tensors, no body at all, or a file that is not what its name says.
    """
    generator = np.random.default_rng()
    tensors = dict(make_tensor(spec, generator=generator) for spec in args.tensor)
    body: Any = None
    content_type = ""
    if args.body is not None:
        body, content_type = _read(args.body)
        if isinstance(body, dict):
            tensors = {**body, **tensors}
            body = None
    if tensors and body is not None:
        raise UsageError("a message has tensors or a text, not both", help="leave one out")
    if body is None and not tensors:
        raise UsageError("nothing to send", help="give a text, @FILE or --tensor")
    return (tensors if tensors else body), args.content_type or content_type


def _read(text: str) -> tuple[Any, str]:
    if text == "-":
        return _text_or_bytes(sys.stdin.buffer.read())
    if not text.startswith("@"):
        return text, JSON if _is_json(text) else TEXT
    path = Path(text[1:])
    if not path.is_file():
        raise UsageError(f"there is no file {path}", help="@ is followed by the path of a file")
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            return load_npz(path), ""
        if suffix == ".npy":
            return {path.stem: np.load(path, allow_pickle=False)}, ""
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(f"{path} is not readable as {suffix}: {error}") from error
    data = path.read_bytes()
    if suffix == ".json":
        try:
            json.loads(data)
        except ValueError as error:
            raise UsageError(f"{path} is no JSON: {error}") from error
        return data.decode(), JSON
    return _text_or_bytes(data)


def _text_or_bytes(data: bytes) -> tuple[Any, str]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data, "application/octet-stream"
    return text, JSON if _is_json(text) else TEXT


def _is_json(text: str) -> bool:
    """Whether it is an object or a list; a bare number or word stays text."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def pairs(texts: list[str], *, what: str) -> dict[str, str]:
    """Read KEY=VALUE texts.

    Raises:
        UsageError: one has no `=`, or no key.
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"{text!r} is no {what}", help="write it as KEY=VALUE")
        found[key] = value
    return found


def options(args: Namespace, content_type: str) -> dict[str, Any]:
    """Return the keyword arguments that `publish` and `request` share."""
    if args.priority > 7:
        raise UsageError(f"priority {args.priority} is over 7", help="0 to 7, higher first")
    found: dict[str, Any] = {
        "headers": pairs(args.header, what="header") or None,
        "priority": args.priority,
    }
    if content_type:
        found["content_type"] = content_type
    return found
