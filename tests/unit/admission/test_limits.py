"""What a limit holds for, and what a file of limits may say."""

from __future__ import annotations

import pytest

from sira.kernel.admission import limits
from sira.kernel.admission.limits import Limit
from sira.kernel.errors import BadSetting
from sira.kernel.identity import Principal

CAM = Principal("local", "lab", "agent", "cam-7")
BOB = Principal("local", "shop", "user", "bob")
TEXT = """
format = "sira-limits 1"

[[limit]]
name = "cameras"
scope = "principal"
pattern = "sira://*/lab/agent/cam-*"
messages_per_s = 200
bytes_per_s = 5e7
burst_s = 2
held_bytes = 1_000_000_000

[[limit]]
name = "shop"
scope = "tenant"
pattern = "shop"
topics = 100
connections = 10

[[limit]]
name = "each-topic"
scope = "topic"
pattern = "lab.>"
messages_per_s = 0.5
"""


def test_a_file_of_limits_is_read() -> None:
    assert limits.parse(TEXT) == (
        Limit("cameras", "principal", "sira://*/lab/agent/cam-*", 200, 5e7, 2, 10**9),
        Limit("shop", "tenant", "shop", topics=100, connections=10),
        Limit("each-topic", "topic", "lab.>", 0.5),
    )
    assert limits.parse('format = "sira-limits 1"') == ()


def test_each_scope_has_keys_of_its_own() -> None:
    cameras, shop, each = limits.parse(TEXT)
    assert cameras.key(CAM, "a") == str(CAM) and cameras.key(BOB, "a") is None
    assert shop.key(BOB) == "shop" and shop.key(CAM) is None
    assert each.key(BOB, "lab.x") == "lab.x"
    assert each.key(BOB, "shop.x") is None and each.key(BOB) is None
    assert Limit("all", "principal").key(BOB) == str(BOB)
    assert Limit("all", "tenant").key(BOB) == "shop"
    assert Limit("all", "topic").key(BOB, "x") == "x"


FINE = 'scope = "principal"\nmessages_per_s = 1\n'


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ('scope = "planet"\nmessages_per_s = 1', "scope", "tenant or principal or topic"),
        ("messages_per_s = 1", "scope", "missing"),
        (FINE + 'pattern = "bob"', "pattern[0]", "sira://CLUSTER"),
        (FINE.replace("principal", "tenant") + 'pattern = "a/b"', "pattern[0]", "a/b"),
        (FINE.replace("principal", "topic") + 'pattern = "a..b"', "pattern[0]", "wrong"),
        (FINE.replace("principal", "topic") + "topics = 3", "topics", "not for a topic"),
        (FINE + "bytes_per_s = 0", "bytes_per_s", "above 0"),
        (FINE + "bytes_per_s = inf", "bytes_per_s", "finite"),
        (FINE + "burst_s = 1e6", "burst_s", "at most 3600"),
        (FINE + "held_bytes = 1.5", "held_bytes", "whole"),
        (FINE + "connections = true", "connections", "no number"),
        ('scope = "tenant"\nburst_s = 2\ntopics = 1', "burst_s", "needs messages_per_s"),
        ('scope = "tenant"', "messages_per_s", "missing"),
        (FINE + "mesages = 1", "mesages", "is it 'messages_per_s'"),
    ],
)
def test_an_error_names_file_limit_and_field(text: str, field: str, says: str) -> None:
    with pytest.raises(BadSetting) as caught:
        limits.parse(f'format = "sira-limits 1"\n[[limit]]\nname = "x"\n{text}', file="l.toml")
    error = caught.value
    assert error.details == {"file": "l.toml", "limit": "x", "field": field}, str(error)
    assert str(error).startswith("l.toml: limit x: ") and says in str(error), str(error)


def test_more_limits_than_a_publish_should_look_at_are_refused() -> None:
    with pytest.raises(BadSetting, match="at most 1000"):
        limits.parse('format = "sira-limits 1"\nlimit = [' + "{}," * 1_001 + "]")


def test_no_limit_of_a_file_is_called_as_that_of_the_settings() -> None:
    """Two of one name would share what is left, and a refusal could mean either."""
    text = f'[[limit]]\nname = "{limits.OF_SETTINGS}"\nscope = "tenant"\nmessages_per_s = 1\n'
    with pytest.raises(BadSetting, match="name"):
        limits.parse(f'format = "sira-limits 1"\n{text}')
