"""From a message to the arguments of a handler, by the names of its parameters. Pure."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any, get_type_hints

from sira import _native
from sira.kernel.errors import BadRequest

PLAIN, ASYNC, GENERATOR, ASYNC_GENERATOR = "plain", "async", "generator", "async_generator"
_JSON_TYPES = ("application/json",)


class Handler:
    """A callable and what it wants.

    Attributes:
        kind: `plain` and `generator` run in a worker thread, the others on the event loop.
        name: for logs and errors.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        """Read the signature.

        Raises:
            TypeError: a signature that tensors cannot be bound to by name.
        """
        self.call = call
        self.name = getattr(call, "__name__", type(call).__name__)
        self.kind = _kind(call)
        self._message_names: list[str] = []
        self._required: list[str] = []
        self._optional: list[str] = []
        self._takes_rest = False
        hints = _hints(call)
        for parameter in inspect.signature(call).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                self._takes_rest = True
            elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
                raise TypeError(
                    f"{self.name}: tensors are bound by name, and {parameter} has none to bind to"
                )
            elif _is_message(hints.get(parameter.name, parameter.annotation)):
                self._message_names.append(parameter.name)
            elif parameter.default is parameter.empty:
                self._required.append(parameter.name)
            else:
                self._optional.append(parameter.name)

    def bind(self, message: _native.Message) -> dict[str, Any]:
        """Return the arguments for `message`.

        A body of text or bytes goes to the one required parameter; JSON (by its content type) is
        decoded first, and an object's members are bound by name like tensors.

        Raises:
            BadRequest: a required name is missing, or the message has a name that is not wanted.
        """
        arguments: dict[str, Any] = {}
        if self._required or self._optional or self._takes_rest or message.keys():
            arguments = self._bind_body(message)
        for name in self._message_names:
            arguments[name] = message
        return arguments

    def _bind_body(self, message: _native.Message) -> dict[str, Any]:
        if self._message_names and not (self._required or self._optional or self._takes_rest):
            return {}  # it looks for itself
        body = _body(message)
        if not isinstance(body, dict):
            if len(self._required) != 1:
                wanted = ", ".join(self._required) or "no tensors"
                raise BadRequest(f"{self.name} wants {wanted}, and the body is not named tensors")
            return {self._required[0]: body}
        missing = [name for name in self._required if name not in body]
        known = {*self._required, *self._optional}
        extra = [] if self._takes_rest else [name for name in body if name not in known]
        if missing or extra:
            clauses = [f"missing: {', '.join(missing)}"] if missing else []
            clauses += [f"not wanted: {', '.join(extra)}"] if extra else []
            raise BadRequest(
                f"{self.name} takes other tensors than these ({'; '.join(clauses)})",
                details={"missing": ",".join(missing), "extra": ",".join(extra)},
                help="name the tensors as the handler's parameters are named",
            )
        return body


def _body(message: _native.Message) -> Any:
    if message.keys() or not message.payload_bytes:
        return dict(message.items())
    if message.content_type.split(";")[0].strip() in _JSON_TYPES:
        try:
            return json.loads(bytes(message.bytes))
        except ValueError as error:
            raise BadRequest(f"the body is not the JSON it says it is: {error}") from None
    if message.content_type.startswith("text/"):
        return message.text
    try:
        return message.text if not message.content_type else message.bytes
    except Exception:  # not UTF-8: bytes then
        return message.bytes


def _kind(call: Callable[..., Any]) -> str:
    function = call if inspect.isroutine(call) else getattr(call, "__call__", call)  # noqa: B004
    if inspect.isasyncgenfunction(function):
        return ASYNC_GENERATOR
    if inspect.isgeneratorfunction(function):
        return GENERATOR
    return ASYNC if inspect.iscoroutinefunction(function) else PLAIN


def _hints(call: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations, evaluated as far as they can be."""
    function = call if inspect.isroutine(call) else getattr(call, "__call__", call)  # noqa: B004
    try:
        return get_type_hints(function)
    except Exception:  # a name that exists for type checkers only
        return dict(getattr(function, "__annotations__", {}))


def _is_message(annotation: Any) -> bool:
    if isinstance(annotation, type):
        return issubclass(annotation, _native.Message)
    # An annotation that could not be evaluated is still text.
    if not isinstance(annotation, str):
        return False
    return annotation.strip("'\"").split(".")[-1] in ("Message", "SyncMessage")
