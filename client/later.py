"""Names that are promised and not there yet: each is refused by its name, never ignored."""

from __future__ import annotations

from typing import Any, NoReturn

from sira.kernel.errors import Unsupported

_FEATURES = {
    "place": "placement (scheduler)",
    "fetch": "replay (durable log)",
    "intent": "intents",
    "session": "sessions",
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
