"""A few agents with examples, and requests, for tests of the search. Sentences of our own."""

from __future__ import annotations

from sira.registry.rank.entries import Entry

EXAMPLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lights": (
        "Switches lamps on and off and dims them",
        ("turn the kitchen lamp off", "it is too dark in here", "dim the bedroom",
         "make the hall brighter", "lights out please", "switch on the desk lamp"),
    ),
    "heating": (
        "Sets the temperature of rooms and radiators",
        ("I am freezing", "set the bathroom to 22 degrees", "it is too warm in here",
         "turn the radiator down", "warm up the study before six", "how cold is the cellar"),
    ),
    "music": (
        "Plays songs, albums and radio stations",
        ("play something calm", "next song", "put on the jazz station", "louder",
         "who sings this", "play my favourite album again"),
    ),
    "shopping": (
        "Keeps the shopping list and orders groceries",
        ("we are out of milk", "add six eggs", "order bread for Saturday",
         "what is still on the list", "remove butter", "buy coffee and sugar"),
    ),
    "calendar": (
        "Knows appointments and moves them",
        ("what is on for tomorrow", "move the dentist to Friday", "am I free at noon",
         "cancel lunch with Anna", "when is my next meeting", "remind me of the birthday"),
    ),
    "cameras": (
        "Shows pictures of cameras at doors and in the garden",
        ("who is at the door", "show me the garden", "was somebody on the drive last night",
         "a picture of the gate", "is the parcel still outside", "watch the back door"),
    ),
}  # fmt: skip


def house(*, examples: int = 6) -> list[Entry]:
    """Return the agents with so many examples each."""
    return [
        Entry(name, name, text, {}, asked[:examples]) for name, (text, asked) in EXAMPLES.items()
    ]
