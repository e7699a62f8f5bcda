"""Applications that services bring: named in the settings, run behind the same identification."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sira.kernel.errors import BadRequest, BadSetting
from sira.services.http.problems import HttpError

PRINCIPAL_KEY = "sira.principal"
_TAKEN = ("/metrics", "/healthz", "/readyz", "/v1")


class Mounted:
    """An application that is told who calls, and is not called for whom the node does not know."""

    def __init__(self, app: ASGIApp, principal: Callable[[str], Awaitable[str]]) -> None:
        """Guard `app`; `principal` says who a caller is, or raises why nobody."""
        self._app, self._principal = app, principal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one call through, with the principal in `scope["sira.principal"]`."""
        if scope["type"] != "http":
            raise HttpError(400, "only HTTP is served here")
        shown = Headers(scope=scope).getlist("authorization")
        if len(shown) > 1:
            raise BadRequest("`Authorization` comes twice")
        who = await self._principal(shown[0] if shown else "")
        await self._app({**scope, PRINCIPAL_KEY: who}, receive, send)


def load(setting: str) -> dict[str, ASGIApp]:
    """Import what the setting `http_mounts` names: "/path=package.module:app, ...".

    Raises:
        BadSetting: a path is taken or no path, or the application cannot be imported.
    """
    found: dict[str, ASGIApp] = {}
    for each in filter(None, (part.strip() for part in setting.split(","))):
        path, equals, target = (part.strip() for part in each.partition("="))
        module, colon, name = target.partition(":")
        if not equals or not colon or not path.startswith("/") or path.endswith("/"):
            raise _bad(f"{each[:80]!r} is not /PATH=package.module:app")
        if path in found or any(path == own or path.startswith(f"{own}/") for own in _TAKEN):
            raise _bad(f"path {path!r} is taken")
        try:
            app = getattr(import_module(module), name)
        except Exception as error:  # the module's own code runs: it may raise anything
            raise _bad(f"{target} cannot be imported: {type(error).__name__}: {error}") from error
        if not callable(app):
            raise _bad(f"{target} is no ASGI application")
        found[path] = app
    return found


def _bad(why: str) -> BadSetting:
    return BadSetting(f"http_mounts: {why}", details={"setting": "http_mounts"})
