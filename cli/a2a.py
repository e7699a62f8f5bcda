"""Agent Cards of the A2A protocol (version 0.3), to and from registrations. Pure.

The card as it came is kept in the registration's `extra`: it is given back as it was, with its
signatures, which no card made of other fields could have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sira.cli.output import UsageError
from sira.kernel.slugs import slug

if TYPE_CHECKING:
    from sira.client.matches import AgentInfo
    from sira.v1 import registry_pb2

KIND = "a2a"
CARD_KEY = "a2a.card"
PROTOCOL_VERSION = "0.3.0"
_TEXT_MODES = ["application/json", "text/plain"]
_TENSOR_MODE = "application/x-sira-tensors"
_EXAMPLES_MAX = 64
# Of https://semver.org, as the registry takes them: what is none stays in the card alone.
_NUMBERS = 3


def read_card(text: str) -> dict[str, Any]:
    """Read a card.

    Raises:
        UsageError: it is no JSON object, or lacks what every card has.
    """
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the card is no JSON: {error}") from None
    if not isinstance(card, dict):
        raise UsageError("an Agent Card is a JSON object")
    missing = [key for key in ("name", "description", "skills") if key not in card]
    if missing:
        raise UsageError(f"the card has no {', '.join(missing)}", help="see the A2A protocol, 5.5")
    skills = card["skills"]
    if not isinstance(card["name"], str) or not isinstance(skills, list) or not skills:
        raise UsageError("a card has a name and a list of skills")
    if not all(isinstance(each, dict) and _texts(each, "id", "name") for each in skills):
        raise UsageError("each skill of a card has an id and a name")
    return card


def registration_of(text: str, *, name: str = "") -> registry_pb2.Registration:
    """Return the registration of a card's agent, with the card in it.

    Args:
        text: the card, kept as it is.
        name: of the agent here; "": made of the card's.
    Raises:
        UsageError: it is no card, or of its name no other can be made.
    """
    from sira.client.capability import Capability, names
    from sira.v1 import registry_pb2

    card = read_card(text)
    name = name or slug(card["name"])
    if not name:
        raise UsageError(f"of {card['name']!r} no name can be made", help="give one: --name")
    capabilities = [
        Capability(
            ": ".join(_texts(skill, "name", "description")),
            name=slug(str(skill["id"])),
            examples=[
                *[str(each) for each in _list(skill, "examples")][:_EXAMPLES_MAX],
                *(
                    [", ".join(str(each) for each in tags)]
                    if (tags := _list(skill, "tags"))
                    else []
                ),
            ],
        )
        for skill in card["skills"]
    ]
    urls = [card.get("url"), *(each.get("url") for each in _list(card, "additionalInterfaces")
                               if isinstance(each, dict))]  # fmt: skip
    return registry_pb2.Registration(
        name=name,
        kind=KIND,
        description=str(card["description"]),
        version=_version(card.get("version")),
        endpoints=list(dict.fromkeys(url for url in urls if isinstance(url, str))),
        capabilities=[
            each.to_proto(name, own)
            for each, own in zip(capabilities, names(capabilities), strict=True)
        ],
        extra={CARD_KEY: text.encode()},
    )


def card_of(agent: AgentInfo, *, url: str) -> dict[str, Any]:
    """Return the card of an agent: the one it came with, else one made of what it says.

    Args:
        url: where the node is, for agents that name no endpoint of their own.
    """
    kept = agent.extra.get(CARD_KEY)
    if kept is not None:
        card: dict[str, Any] = json.loads(kept)
        return card
    takes_tensors = any(each.takes for each in agent.capabilities)
    gives_tensors = any(each.gives for each in agent.capabilities)
    return {
        "protocolVersion": PROTOCOL_VERSION,
        "name": agent.name,
        "description": agent.description or "; ".join(each.text for each in agent.capabilities),
        "url": agent.endpoints[0] if agent.endpoints else url,
        "version": agent.version or "0.0.0",
        "capabilities": {"streaming": False, "pushNotifications": False},
        "defaultInputModes": [*([_TENSOR_MODE] if takes_tensors else []), *_TEXT_MODES],
        "defaultOutputModes": [*([_TENSOR_MODE] if gives_tensors else []), *_TEXT_MODES],
        "skills": [
            {
                "id": each.name,
                "name": each.name,
                "description": each.text,
                "tags": sorted(agent.labels.values()),
                "examples": list(each.examples),
            }
            for each in agent.capabilities
        ],
    }


def _texts(value: Mapping[str, Any], *keys: str) -> list[str]:
    found = [value.get(key) for key in keys]
    return [each for each in found if isinstance(each, str) and each]


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    return found if isinstance(found, list) else []


def _version(told: Any) -> str:
    parts = told.split(".") if isinstance(told, str) else []
    numbers = len(parts) == _NUMBERS and all(
        each.isascii() and each.isdigit() and str(int(each)) == each for each in parts
    )
    return told if numbers else ""
