"""Keys and certificates of a made-up cluster, and nodes that believe them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import sira
from sira.kernel.identity import Principal
from sira.kernel.logs import Logs
from sira.kernel.node import Node
from sira.kernel.settings import load
from sira.kernel.trust import certificates, secrets, tokens

CLUSTER = "test"
# The beginning of a file of rules.
ONLY_CALLS = """
format = "sira-policy 1"
default = "deny"
[[rule]]
name = "calls"
effect = "allow"
principals = "*"
actions = "call"
methods = "*"
"""


def principal(name: str, tenant: str = "default", kind: str = "user") -> Principal:
    return Principal(CLUSTER, tenant, kind, name)


@dataclass(frozen=True)
class Keys:
    """A folder with what `sira tls init` makes, and ways to make more."""

    folder: Path
    ca: certificates.Pair
    root: str

    @classmethod
    def new(cls, folder: Path, cluster: str = CLUSTER) -> Keys:
        folder.mkdir(exist_ok=True)
        ca = certificates.make_ca(cluster, now_s=time.time())
        keys = cls(folder, ca, tokens.new_root_key())
        (folder / "ca.pem").write_bytes(ca.certificate)
        (folder / "token.pub").write_text(
            tokens.keys_file([tokens.public_key(keys.root)]), encoding="utf-8"
        )
        keys.certificate("node", Principal(cluster, "system", "node", "n1"), server=True)
        return keys

    def certificate(self, name: str, who: Principal, **more: object) -> tuple[Path, Path]:
        """Make a certificate and its key; return their files."""
        server = bool(more.pop("server", False))
        pair = certificates.issue(
            self.ca, who, now_s=time.time(), server=server,
            dns=("localhost",) if server else (), ips=("127.0.0.1",) if server else (),
            **more,  # type: ignore[arg-type]
        )  # fmt: skip
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(pair.certificate)
        secrets.write_secret(key, pair.key, replace=True)
        return cert, key

    def token(self, who: Principal, **more: object) -> str:
        return tokens.mint(self.root, who, **more)  # type: ignore[arg-type]

    def flags(self, **more: object) -> dict[str, object]:
        """Settings of a node that listens with these keys."""
        return {
            "cluster_name": CLUSTER, "listen": "127.0.0.1:0", "data_dir": str(self.folder),
            "tls_cert": str(self.folder / "node.pem"), "tls_key": str(self.folder / "node.key"),
            "tls_client_ca": str(self.folder / "ca.pem"),
            "token_keys": str(self.folder / "token.pub"), "reload_s": 0.02,
        } | more  # fmt: skip

    def security(self, **more: object) -> sira.Security:
        return sira.Security(tls_ca=self.folder / "ca.pem", **more)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, under the watchdog."""
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(flags: dict[str, object]) -> AsyncIterator[Node]:
    node = Node(load(environ={}, flags=flags), logs=Logs(node="test", level="error"))
    await node.start()
    try:
        yield node
    finally:
        await node.stop(0)
        node.logs.close()
