"""`sira tls`: the authority of a cluster and its certificates, in plain files."""

from __future__ import annotations

import re
import socket
import time
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sira.cli.output import Output, Result
from sira.kernel import toml_table
from sira.kernel.errors import BadRequest, BadSetting, Conflict, SiraError
from sira.kernel.identity import Principal
from sira.kernel.settings import load
from sira.kernel.trust import revocations, tokens
from sira.kernel.trust.certificates import Certificate, Pair, issue, make_ca, read
from sira.kernel.trust.secrets import read_secret, write_secret, write_whole

_FILES = ("ca.pem", "ca.key", "node.pem", "node.key", "token.key", "token.pub")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


def principal_of(text: str, cluster: str | None) -> Principal:
    """Read a principal; without `sira://` it is one of the cluster given, else of the one here."""
    if text.startswith("sira://"):
        return Principal.parse(text)
    return Principal.parse(f"sira://{cluster or load().cluster_name}/{text}")


def date_text(at_ns: int | None) -> str:
    """Write a time for people; None is never."""
    if at_ns is None:
        return "never"
    return datetime.fromtimestamp(at_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def init(args: Namespace, out: Output) -> Result:
    """Make everything that a cluster's first node needs; leaves what is there alone."""
    settings = load()
    cluster, name = args.cluster or settings.cluster_name, args.name or settings.node_name
    # The node's own name and addresses, and those of this host: clients may use any.
    dns = list(dict.fromkeys(["localhost", *_host_names(), *args.dns]))
    ips = list(dict.fromkeys(["127.0.0.1", "::1", *args.ip]))
    principal, now_s = Principal(cluster, "system", "node", name), time.time()
    out.start(dir=args.dir, cluster=cluster)
    folder = Path(args.dir)
    ca = make_ca(cluster, now_s=now_s)
    node = issue(ca, principal, now_s=now_s, dns=dns, ips=ips, server=True)
    root = tokens.new_root_key()
    _make_folder(folder)
    there = [each for each in _FILES if (folder / each).exists()]
    if there and not args.force:
        raise Conflict(
            f"{folder} has {', '.join(there)} already: what they have signed would be worth "
            "nothing to nodes with new ones",
            help="choose another folder; --force replaces them",
        )
    for path, content in (
        ("ca.key", ca.key),
        ("node.key", node.key),
        ("token.key", tokens.key_file(root).encode()),
    ):
        write_secret(folder / path, content, replace=args.force)
    for path, content in (
        ("ca.pem", ca.certificate),
        ("node.pem", node.certificate),
        ("token.pub", tokens.keys_file([tokens.public_key(root)]).encode()),
    ):
        write_whole(folder / path, content, mode=0o644, replace=args.force)
    told = read(node.certificate)
    out.text(f"{folder} has {', '.join(_FILES)}")
    out.text(f"node.pem is {principal}, for {', '.join((*told.dns, *told.ips))}")
    out.text("keep ca.key and token.key where no node runs: who has them can be anybody")
    data = {
        "dir": str(folder),
        "cluster": cluster,
        "principal": str(principal),
        "files": list(_FILES),
        "dns": list(told.dns),
        "ips": list(told.ips),
        "expires_ns": int(told.expires_s) * 10**9,
        "token_key": tokens.public_key(root),
    }
    return Result(data)


def issue_one(args: Namespace, out: Output) -> Result:
    """Make one certificate and its key."""
    principal, folder = principal_of(args.principal, args.cluster), Path(args.dir)
    out.start(principal=str(principal))
    ca = Pair(toml_table.read_text(folder / "ca.pem").encode(), read_secret(folder / "ca.key"))
    made = issue(
        ca,
        principal,
        now_s=time.time(),
        dns=args.dns,
        ips=args.ip,
        server=args.server,
        valid_s=args.days * 86_400,
    )
    stem = str(args.out) if args.out else str(folder / principal.name)
    files = (Path(f"{stem}.pem"), Path(f"{stem}.key"))
    for path in files:
        if path.exists() and not args.force:
            raise Conflict(f"{path} is already there", help="--out names another, --force replaces")
    write_secret(files[1], made.key, replace=args.force)
    write_whole(files[0], made.certificate, mode=0o644, replace=args.force)
    told = read(made.certificate)
    expires_ns = int(told.expires_s) * 10**9
    out.text(f"{files[0]} and {files[1]} are {principal}, until {date_text(expires_ns)}")
    data = {
        "principal": str(principal),
        "id": told.id,
        "files": [str(path) for path in files],
        "expires_ns": expires_ns,
    }
    return Result(data)


def show(args: Namespace, out: Output) -> Result:
    """Show what a certificate says, whoever has signed it."""
    out.start(file=args.file)
    told = read(_certificate_bytes(args.file))
    data = _told(told)
    out.text(f"principal  {data['principal'] or 'none: ' + (', '.join(told.uris) or 'no URI')}")
    out.text(f"id         {told.id}")
    out.text(f"names      {', '.join((*told.dns, *told.ips)) or 'none'}")
    out.text(f"signed by  {told.issuer}" + (" (an authority itself)" if told.authority else ""))
    out.text(f"valid      {date_text(data['begins_ns'])} to {date_text(data['expires_ns'])}")
    if not data["valid_now"]:
        out.warning("it is not valid now")
    return Result(data)


def revoke(args: Namespace, out: Output) -> Result:
    """Add a certificate to the file of what is revoked."""
    id_ = str(args.certificate)
    if not id_.startswith("cert:"):
        told = read(_certificate_bytes(id_))
        if told.authority:
            raise BadRequest(
                "an authority cannot be revoked: take it out of every node's tls_client_ca"
            )
        id_ = told.id
    return withdraw([id_], args, out)


def withdraw(ids: list[str], args: Namespace, out: Output) -> Result:
    """Add ids to the file that `--revocations` names, else to the one a node here reads."""
    settings = load()
    path = args.revocations or settings.revocations
    path = Path(path) if path else Path(settings.data_dir) / "revocations.toml"
    out.start(file=str(path))
    new = revocations.add(path, ids, args.reason, now_s=time.time())
    for id_ in ids:
        out.text(f"{id_} {'is' if id_ in new else 'was already'} revoked in {path}")
    return Result({"ids": ids, "new": len(new), "file": str(path)})


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"{folder} cannot be made: {error.strerror}") from None


def _host_names() -> list[str]:
    """Return the host's name, where a certificate can say it."""
    name = socket.gethostname()
    return [name] if _HOST.fullmatch(name) and len(name) <= 253 else []


def _certificate_bytes(path: Path | str) -> bytes:
    try:
        with open(path, "rb") as opened:
            return opened.read(1 << 20)
    except OSError as error:
        raise BadSetting(f"{path} cannot be read: {error.strerror}") from None


def _told(told: Certificate) -> dict[str, Any]:
    now_s = time.time()
    try:
        principal = str(Principal.parse(told.uris[0])) if len(told.uris) == 1 else None
    except SiraError:
        principal = None
    return {
        "principal": principal,
        "id": told.id,
        "uris": list(told.uris),
        "dns": list(told.dns),
        "ips": list(told.ips),
        "issuer": told.issuer,
        "subject": told.subject,
        "begins_ns": int(told.begins_s) * 10**9,
        "expires_ns": int(told.expires_s) * 10**9,
        "authority": told.authority,
        "valid_now": told.begins_s <= now_s < told.expires_s,
    }
