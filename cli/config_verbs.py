"""The verbs of values that the node keeps; what they do is in config.py."""

from __future__ import annotations

from sira.cli import schemas as s
from sira.cli.table import Argument, Verb

_KEY = Argument(
    name="key", required=True, help="under `app.`, as app.demo, or registry.weights.CAPABILITY"
)
_EXPECT = Argument(
    name="--expect",
    kind="integer",
    minimum=0,
    metavar="VERSION",
    help="only if this version holds; 0: only if there is none",
)

CONFIG_VERBS = (
    Verb(
        name="config get",
        summary="show the value that holds for a key, or for a setting of the node",
        run="config:get",
        arguments=(Argument(name="key", required=True, help="under `app.`, or a setting's name"),),
        result=s.CONFIG_GOT,
    ),
    Verb(
        name="config set",
        summary="give a key another value; each makes a version",
        run="config:set_value",
        arguments=(
            _KEY,
            Argument(name="value", required=True, help="JSON; what is none is taken as text"),
            _EXPECT,
        ),
        effects="once",
        result=s.CONFIG_VALUE,
    ),
    Verb(
        name="config history",
        summary="list the versions of a key that are kept, newest first",
        run="config:history",
        arguments=(_KEY,),
        result=s.COUNTED,
        item=s.CONFIG_VALUE,
    ),
    Verb(
        name="config rollback",
        summary="give a key the value of an earlier version, as a new one",
        run="config:rollback",
        arguments=(
            _KEY,
            Argument(
                name="to",
                kind="integer",
                required=True,
                minimum=1,
                help="version whose value it gets",
            ),
            _EXPECT,
        ),
        effects="once",
        result=s.CONFIG_VALUE,
    ),
    Verb(
        name="config list",
        summary="list the keys that are set, and what holds",
        run="config:list_keys",
        arguments=(Argument(name="pattern", default="", help="only those that match"),),
        result=s.COUNTED,
        item=s.CONFIG_VALUE,
    ),
)
