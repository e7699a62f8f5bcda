"""Names that are promised and not there yet: each is refused by its name, never ignored."""

from __future__ import annotations

from typing import Any, NoReturn

from sira.kernel.errors import Unsupported

_FEATURES = {
    "place": "placement (scheduler)",
    "fetch": "replay (durable log)",
    "intent": "intents",
    "session": "sessions",
    "config.set": "configuration over the bus (cluster)",
    "config.get": "configuration over the bus (cluster)",
    "config.history": "configuration over the bus (cluster)",
    "config.rollback": "configuration over the bus (cluster)",
    "Agent.quick": "model-driven agents",
    "Agent.builder": "model-driven agents",
}


def unsupported(name: str) -> Unsupported:
    """Return the refusal of a name of the contract that this version does not have."""
    feature = _FEATURES[name]
    return Unsupported(
        f"{name} needs {feature}, which this version does not have",
        details={"name": name, "feature": feature},
    )


class Later:
    """Methods of the bus that later features bring. Each raises Unsupported when it is called."""

    def place(self, *_args: Any, **_settings: Any) -> NoReturn:
        """Reserve a place for a load: with the scheduler."""
        raise unsupported("place")

    def fetch(self, *_args: Any, **_settings: Any) -> NoReturn:
        """Replay a durable topic: with the log."""
        raise unsupported("fetch")

    def intent(self, *_args: Any, **_settings: Any) -> NoReturn:
        """Begin something wanted: with intents."""
        raise unsupported("intent")

    def session(self, *_args: Any, **_settings: Any) -> NoReturn:
        """Join a collaboration: with sessions."""
        raise unsupported("session")

    @property
    def config(self) -> LaterConfig:
        """Configuration over the bus: with the cluster."""
        return LaterConfig()


class LaterConfig:
    """Methods of `bus.config`. Each raises Unsupported when it is called."""

    def set(self, *_args: Any, **_settings: Any) -> NoReturn:
        """Set a value."""
        raise unsupported("config.set")

    def get(self, *_args: Any, **_settings: Any) -> NoReturn:
        """Read a value."""
        raise unsupported("config.get")

    def history(self, *_args: Any, **_settings: Any) -> NoReturn:
        """Read the versions of a value."""
        raise unsupported("config.history")

    def rollback(self, *_args: Any, **_settings: Any) -> NoReturn:
        """Go back to a version."""
        raise unsupported("config.rollback")
