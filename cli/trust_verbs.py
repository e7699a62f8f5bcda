"""Verbs of keys, certificates and tokens: a part of the table in verbs.py. None needs a node."""

from __future__ import annotations

from sira.cli import schemas as s
from sira.cli.output import EXIT_REFUSED
from sira.cli.table import Argument, Verb

_EXITS = {EXIT_REFUSED: "a file, a key or a token is not what it should be"}
_PRINCIPAL = Argument(
    name="principal",
    required=True,
    help="sira://CLUSTER/TENANT/KIND/NAME, or TENANT/KIND/NAME of the cluster here",
)
_CLUSTER = Argument(
    name="--cluster", metavar="NAME", help="the cluster's name (the setting cluster_name)"
)
_DNS = Argument(
    name="--dns", many=True, metavar="NAME", help="a name under which it is reached; repeatable"
)
_IP = Argument(
    name="--ip", many=True, metavar="ADDRESS", help="an address under which it is reached"
)
_FORCE = Argument(name="--force", kind="boolean", help="replace files that are there")
_REASON = Argument(name="--reason", default="", metavar="TEXT", help="why, for people")
_REVOCATIONS = Argument(
    name="--revocations",
    kind="path",
    metavar="FILE",
    help="the file that nodes read (the setting revocations: revocations.toml in data_dir)",
)
_TOKEN = Argument(
    name="token",
    help="the token, @FILE, or - for standard input (SIRA_TOKEN, else SIRA_TOKEN_FILE)",
)
_ACTION = Argument(
    name="--action",
    many=True,
    metavar="ACTION",
    help="all it may do: publish, subscribe, create_topic, delete_topic, inspect, attach, "
    "administer; repeatable (whatever the policy allows)",
)
_TOPIC = Argument(
    name="--topic",
    many=True,
    metavar="PATTERN",
    help="all the topics it may do that on, and private replies; repeatable (all)",
)
_OUT = Argument(
    name="--out", kind="path", metavar="FILE", help="write the token there, mode 0600, not here"
)
_KEYS = Argument(
    name="--keys",
    kind="path",
    metavar="FILE",
    help="public keys (token.pub): also verify who made it (none: read it as it stands)",
)

TRUST_VERBS: tuple[Verb, ...] = (
    Verb(
        name="tls init",
        summary="make the authority of a cluster, a node's certificate, and the key of tokens",
        run="tls:init",
        arguments=(
            Argument(
                name="dir",
                kind="path",
                required=True,
                help="folder for ca.pem ca.key node.pem node.key token.key token.pub",
            ),
            _CLUSTER,
            Argument(name="--name", metavar="NODE", help="the node's name (the setting node_name)"),
            _DNS,
            _IP,
            _FORCE,
        ),
        effects="once",
        result=s.TLS_INIT,
        exits=_EXITS,
        connects=False,
    ),
    Verb(
        name="tls issue",
        summary="make a certificate of a principal, and its key",
        run="tls:issue_one",
        arguments=(
            _PRINCIPAL,
            Argument(
                name="--dir",
                kind="path",
                default=".",
                metavar="DIR",
                help="the folder of ca.pem and ca.key (.)",
            ),
            Argument(
                name="--out",
                kind="path",
                metavar="PATH",
                help="writes PATH.pem and PATH.key (the principal's name, in --dir)",
            ),
            _DNS,
            _IP,
            Argument(name="--server", kind="boolean", help="it may serve, too: with --dns or --ip"),
            Argument(
                name="--days",
                kind="number",
                default=365.0,
                minimum=0.001,
                help="how long it is valid, at most as long as the authority (365)",
            ),
            _CLUSTER,
            _FORCE,
        ),
        effects="once",
        result=s.TLS_ISSUE,
        exits=_EXITS,
        connects=False,
    ),
    Verb(
        name="tls show",
        summary="show what a certificate says",
        run="tls:show",
        arguments=(
            Argument(name="file", kind="path", required=True, help="the certificate, PEM or DER"),
        ),
        result=s.CERTIFICATE,
        exits=_EXITS,
        connects=False,
    ),
    Verb(
        name="tls revoke",
        summary="withdraw a certificate: nodes that read the file refuse it within seconds",
        run="tls:revoke",
        arguments=(
            Argument(
                name="certificate", required=True, help="its file, or its id as cert:SERIAL in hex"
            ),
            _REASON,
            _REVOCATIONS,
        ),
        effects="idempotent",
        result=s.REVOKED,
        exits=_EXITS,
        connects=False,
    ),
    Verb(
        name="token create",
        summary="make a token that speaks for a principal",
        run="token:create",
        arguments=(
            _PRINCIPAL,
            Argument(
                name="--key",
                kind="path",
                default="token.key",
                metavar="FILE",
                help="the private key that `sira tls init` made (token.key)",
            ),
            _ACTION,
            _TOPIC,
            Argument(
                name="--expires",
                kind="number",
                default=2_592_000.0,
                minimum=1.0,
                metavar="SECONDS",
                help="when it ends, from now; inf: never (2592000, 30 days)",
            ),
            _OUT,
            _CLUSTER,
            _FORCE,
        ),
        effects="once",
        result=s.TOKEN,
        exits=_EXITS,
        connects=False,
    ),
    Verb(
        name="token narrow",
        summary="make a token that may do less, without asking anybody",
        run="token:narrow",
        arguments=(
            _TOKEN,
            _ACTION,
            _TOPIC,
            Argument(
                name="--expires",
                kind="number",
                minimum=1.0,
                metavar="SECONDS",
                help="when it ends at the latest, from now",
            ),
            Argument(
                name="--keys",
                kind="path",
                metavar="FILE",
                help="public keys of its maker, for a token that another program made",
            ),
            _OUT,
            _FORCE,
        ),
        effects="once",
        result=s.TOKEN,
        exits=_EXITS,
        connects=False,
    ),
    Verb(
        name="token show",
        summary="show what a token says, block by block",
        run="token:show",
        arguments=(_TOKEN, _KEYS),
        result=s.TOKEN_SHOWN,
        item=s.TOKEN_BLOCK,
        exits=_EXITS,
        connects=False,
    ),
    Verb(
        name="token revoke",
        summary="withdraw a token and all that was narrowed from it",
        run="token:revoke",
        arguments=(
            Argument(
                name="token",
                help="the token, @FILE, - for standard input, or an id as biscuit:HEX or jwt:ID "
                "(SIRA_TOKEN, else SIRA_TOKEN_FILE)",
            ),
            Argument(
                name="--whole",
                kind="boolean",
                help="also the token that it was narrowed from, up to the one first made",
            ),
            _REASON,
            _REVOCATIONS,
        ),
        effects="idempotent",
        result=s.REVOKED,
        exits=_EXITS,
        connects=False,
    ),
)
