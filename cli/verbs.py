"""The table of verbs: parser, help, completion and `sira --emit-spec` are made from it alone.

A verb of two words ("topics create") is a verb of its own; `default` marks the one that runs when
only the first word is given.
"""

from __future__ import annotations

from sira.cli import schemas as s
from sira.cli.config_verbs import CONFIG_VERBS
from sira.cli.output import EXIT_REFUSED, EXIT_UNACCOUNTED
from sira.cli.registry_verbs import registry_verbs
from sira.cli.table import Argument, Verb
from sira.cli.trust_verbs import TRUST_VERBS
from sira.kernel.authorize import ACTIONS
from sira.kernel.settings import SCHEMA

_TOPIC = Argument(name="topic", help="dotted name of the topic")
_BODY = Argument(
    name="body",
    help="text, JSON, - for standard input, or @FILE (.npy, .npz and .json are understood)",
)
_TENSOR = Argument(
    name="--tensor",
    many=True,
    metavar="NAME=DTYPE[DIMS]:FILL",
    help="a tensor made here, as x=f32[1024]:random; FILL is random, range, or a number",
)
_HEADER = Argument(name="--header", many=True, metavar="KEY=VALUE", help="a header of the message")
_PRIORITY = Argument(
    name="--priority", kind="integer", default=0, minimum=0, help="0 to 7, higher first"
)
_REQUEST_TIMEOUT = Argument(
    name="--timeout",
    kind="number",
    default=5.0,
    minimum=0.0,
    metavar="SECONDS",
    help="how long to wait for the answer (5)",
)
_SAVE = Argument(name="--save", kind="path", metavar="PATH", help="save the reply's tensors (.npz)")
_CONTENT_TYPE = Argument(name="--content-type", metavar="TYPE", help="what the body is")
_FULL = Argument(name="--full", kind="boolean", help="print whole texts, not their beginning")
_ONCE = Argument(name="--once", kind="boolean", help="one picture, then end")
_METAVARS = {
    "listen": "HOST:PORT",
    "listen_mtls": "HOST:PORT",
    "http": "HOST:PORT",
    "data_dir": "DIR",
    "tls_cert": "FILE",
    "tls_key": "FILE",
    "tls_client_ca": "FILE",
    "token_keys": "FILE",
    "jwt_issuers": "FILE",
    "revocations": "FILE",
    "limits_file": "FILE",
    "policy": "NAME|FILE",
}
_SETTINGS = (
    Argument(
        name="--config", kind="path", metavar="FILE", help="settings in TOML, flags come before it"
    ),
    *(
        Argument(
            name=f"--{name.replace('_', '-')}",
            kind="boolean" if spec.kind is bool else "string",
            metavar=_METAVARS.get(name, spec.unit.upper() or "TEXT"),
            help=f"{spec.reason} ({spec.default or 'none'})",
        )
        for name, spec in SCHEMA.items()
    ),
)

VERBS: tuple[Verb, ...] = (
    Verb(
        name="up",
        summary="run a node until SIGTERM, which drains it",
        run="up:up",
        arguments=_SETTINGS,
        effects="once",
        result=s.UP,
        exits={
            EXIT_UNACCOUNTED: "it ended by itself",
            EXIT_REFUSED: "it could not start: settings, address or data folder",
        },
        endless=True,
        connects=False,
    ),
    Verb(
        name="status",
        summary="say whether the node is up, what it carries and whether its ledger balances",
        run="status:status",
        arguments=(
            Argument(
                name="--prometheus", kind="boolean", help="all metrics in Prometheus' text format"
            ),
            Argument(
                name="--wait",
                kind="number",
                default=3.0,
                minimum=0.0,
                metavar="SECONDS",
                help="how long a node may take to answer (3)",
            ),
        ),
        result=s.STATUS,
        exits={EXIT_UNACCOUNTED: "the ledger does not balance"},
    ),
    Verb(
        name="top",
        summary="watch topics, clients, subscriptions and their rates",
        run="top:top",
        arguments=(
            _ONCE,
            Argument(
                name="--interval",
                kind="number",
                default=1.0,
                minimum=0.05,
                metavar="SECONDS",
                help="time between pictures (1)",
            ),
            Argument(name="--pattern", default=">", help="only topics that match"),
        ),
        result=s.TOP_RESULT,
        item=s.TOP,
        endless=True,
    ),
    Verb(
        name="pub",
        summary="publish messages and show their receipts",
        run="publish:pub",
        arguments=(
            _TOPIC,
            _BODY,
            _TENSOR,
            _HEADER,
            Argument(
                name="--count", kind="integer", minimum=1, help="how many (1; with --rate endless)"
            ),
            Argument(name="--rate", kind="number", minimum=0.001, help="messages a second"),
            _PRIORITY,
            Argument(
                name="--ttl",
                kind="number",
                minimum=0.000001,
                metavar="SECONDS",
                help="expire what is not delivered by then",
            ),
            Argument(
                name="--timeout",
                kind="number",
                minimum=0.0,
                metavar="SECONDS",
                help="how long to wait for room (the node's publish_block_s)",
            ),
            _CONTENT_TYPE,
        ),
        effects="once",
        result=s.PUB_RESULT,
        item=s.RECEIPT,
        exits={EXIT_UNACCOUNTED: "some messages were refused, or their fate is unknown"},
        endless=True,
    ),
    Verb(
        name="sub",
        summary="show the messages that match a pattern, or save their tensors",
        run="subscribe:sub",
        arguments=(
            Argument(name="pattern", required=True, help="* matches one token, a last > the rest"),
            Argument(name="--count", kind="integer", minimum=1, help="end after so many"),
            Argument(name="--group", default="", help="share the messages with this queue group"),
            Argument(
                name="--overflow",
                choices=("block", "drop", "latest"),
                default="block",
                help="what happens when this reader is too slow (block)",
            ),
            Argument(
                name="--save",
                kind="path",
                metavar="PATH",
                help="save tensors: one file (.npz, with --count 1), else a folder",
            ),
            Argument(
                name="--timeout",
                kind="number",
                minimum=0.0,
                metavar="SECONDS",
                help="end when nothing came for so long; fails when --count was not reached",
            ),
            _FULL,
        ),
        result=s.SUB_RESULT,
        item=s.MESSAGE,
        exits={EXIT_UNACCOUNTED: "fewer messages than --count came"},
        endless=True,
    ),
    Verb(
        name="request",
        summary="ask, and show the answer",
        run="publish:request",
        arguments=(
            _TOPIC,
            _BODY,
            _TENSOR,
            _HEADER,
            _PRIORITY,
            _REQUEST_TIMEOUT,
            Argument(name="--stream", kind="boolean", help="take many replies, until the end"),
            _SAVE,
            _CONTENT_TYPE,
            _FULL,
        ),
        effects="once",
        result=s.REQUEST_RESULT,
        item=s.MESSAGE,
    ),
    *registry_verbs(
        (_BODY, _TENSOR, _HEADER, _PRIORITY, _REQUEST_TIMEOUT), (_SAVE, _CONTENT_TYPE, _FULL)
    ),
    Verb(
        name="topics list",
        summary="list topics, declared and in use",
        run="topics:list_topics",
        arguments=(Argument(name="pattern", default=">", help="only those that match"),),
        result=s.COUNTED,
        item=s.TOPIC,
        default=True,
    ),
    Verb(
        name="topics create",
        summary="declare a topic, or a class of topics by a pattern",
        run="topics:create",
        arguments=(
            Argument(name="topic", required=True, help="dotted name, or a pattern"),
            Argument(
                name="--kind",
                choices=("volatile", "latest", "durable"),
                default="volatile",
                help="what is kept (volatile: nothing)",
            ),
            Argument(
                name="--contract",
                many=True,
                metavar="NAME=SPEC",
                help='tensors that messages carry, as "x=f32[N<=1024]"',
            ),
        ),
        effects="idempotent",
        result=s.TOPIC,
    ),
    Verb(
        name="topics delete",
        summary="delete a topic",
        run="topics:delete",
        arguments=(Argument(name="topic", required=True, help="its name"),),
        effects="idempotent",
        result=s.DELETED,
    ),
    Verb(
        name="ledger",
        summary="show what became of every message; fails when one is unexplained",
        run="ledger:ledger",
        arguments=(Argument(name="pattern", default=">", help="only topics that match"),),
        result=s.LEDGER_RESULT,
        item=s.LEDGER_ROW,
        exits={EXIT_UNACCOUNTED: "a message is unexplained"},
    ),
    Verb(
        name="explain",
        summary="say who may do what, and who gets a topic's messages, by which lane and why",
        run="ledger:explain",
        arguments=(
            Argument(
                name="what",
                required=True,
                metavar="TOPIC|ACTION",
                help="topic or pattern; or an action, before what it is on",
            ),
            Argument(
                name="topic",
                metavar="TOPIC",
                help="what the action is on; for call, attach and administer a method or name",
            ),
            Argument(name="--action", choices=ACTIONS, help="what to judge (publish)"),
            Argument(
                name="--as",
                metavar="PRINCIPAL",
                help="judge for sira://CLUSTER/TENANT/KIND/NAME, or TENANT/KIND/NAME, without its "
                "token (yourself)",
            ),
            Argument(
                name="--client",
                metavar="ID",
                help="also say which way messages of this publisher go: its id, or how that begins",
            ),
            Argument(
                name="--wait",
                kind="number",
                default=0.0,
                minimum=0.0,
                metavar="SECONDS",
                help="wait so long until somebody listens (0)",
            ),
        ),
        result=s.EXPLAIN,
        exits={EXIT_UNACCOUNTED: "the action is denied, or nobody listens after --wait"},
    ),
    Verb(
        name="mem",
        summary="show the memory that clients share: whose it is, how old, and who holds it",
        run="mem:mem",
        arguments=(
            Argument(name="pattern", default="", help="only of topics that match (all memory)"),
        ),
        result=s.MEM_RESULT,
        item=s.MEM,
    ),
    Verb(
        name="events",
        summary="follow what the node says about itself",
        run="events:events",
        arguments=(
            Argument(
                name="pattern",
                default="sira.>",
                help="which facts (sira.>: all, without the snapshots of sira.load.>)",
            ),
            Argument(name="--once", kind="boolean", help="one fact, then end"),
            Argument(name="--count", kind="integer", minimum=1, help="end after so many"),
        ),
        result=s.EVENTS_RESULT,
        item=s.EVENT,
        exits={EXIT_UNACCOUNTED: "fewer facts than were asked for came"},
        endless=True,
    ),
    Verb(
        name="bench",
        summary="measure the bus between two processes, and count every message",
        run="bench:bench",
        arguments=(
            Argument(
                name="--pattern",
                choices=("pub", "request"),
                default="pub",
                help="one-way messages, or requests and their replies (pub)",
            ),
            Argument(
                name="--lane",
                choices=("auto", "grpc", "socket", "shm", "direct"),
                default="auto",
                help="the way to measure; refused where receipts tell another (auto)",
            ),
            Argument(
                name="--size",
                default="1MiB",
                metavar="BYTES",
                help="payload, as 256 or 1MiB (1MiB)",
            ),
            Argument(
                name="--rate",
                kind="number",
                minimum=0.001,
                help="target, messages a second (none: as fast as it goes)",
            ),
            Argument(
                name="--seconds",
                kind="number",
                default=3.0,
                minimum=0.1,
                help="length of the measurement (3)",
            ),
            Argument(
                name="--in-flight",
                kind="integer",
                default=1,
                minimum=1,
                help="requests on the way at once (1)",
            ),
            Argument(name="--save", kind="path", metavar="FILE", help="save this as a baseline"),
            Argument(
                name="--baseline", kind="path", metavar="FILE", help="judge against this baseline"
            ),
            Argument(
                name="--plot", kind="path", metavar="FILE", help="draw latencies (.png or .svg)"
            ),
        ),
        effects="once",
        result=s.BENCH,
        exits={EXIT_UNACCOUNTED: "messages are unexplained, or slower than the baseline"},
    ),
    Verb(
        name="doctor",
        summary="check this machine, this installation and the way to the node",
        run="doctor:doctor",
        arguments=_SETTINGS,
        result=s.DOCTOR_RESULT,
        item=s.CHECK,
        exits={EXIT_UNACCOUNTED: "a check failed"},
    ),
    Verb(
        name="config show",
        summary="show every setting, its value, where it comes from, and why it is there",
        run="node:config_show",
        arguments=(
            *_SETTINGS,
            Argument(
                name="--running",
                kind="boolean",
                help="those of the node at --url, not those a node would start with here",
            ),
        ),
        result=s.COUNTED,
        item=s.SETTING,
        default=True,
    ),
    *CONFIG_VERBS,
    *TRUST_VERBS,
    Verb(
        name="verbs",
        summary="show the verbs that services have brought to the node",
        run="service_verb:verbs",
        arguments=(
            Argument(
                name="--complete",
                metavar="WORDS",
                help="only the words that may follow these, for completion in a shell",
            ),
        ),
        result=s.COUNTED,
        item=s.SERVICE_VERB,
    ),
    Verb(
        name="version",
        summary="show the version of this command and what it was built with",
        run="node:version",
        result=s.VERSION,
        connects=False,
    ),
)


# Whatever else stands there: what it takes and gives is known when the node has told.
OF_SERVICES = Verb(name="", summary="a verb of a service", run="service_verb:run", endless=True)


def groups() -> dict[str, list[Verb]]:
    """First word -> its verbs, in the order of the table."""
    found: dict[str, list[Verb]] = {}
    for verb in VERBS:
        found.setdefault(verb.name.split()[0], []).append(verb)
    return found
