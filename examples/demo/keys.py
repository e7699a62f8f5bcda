"""Keys of the demo over TLS: an authority, a token for each process, and rules that give each just
what it needs. All in one folder that goes with the demo.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

AGENTS = ("edges-1", "edges-2", "thumbnail-1", "exposure-1")
WHO = {
    "gateway": "demo/gateway/gateway-1",
    **{name: f"demo/agent/{name}" for name in AGENTS},
    "watcher": "demo/user/watcher",
}
RULES = """\
format = "sira-policy 1"
default = "deny"

[[rule]]
name = "everybody-calls"
effect = "allow"
principals = ["sira://*/demo/*/*"]
actions = ["call"]
methods = ["*"]

[[rule]]
name = "gateway-asks-and-publishes"
effect = "allow"
principals = ["sira://*/demo/gateway/gateway-1"]
actions = ["publish", "create_topic"]
topics = ["agents.>", "demo.results"]

[[rule]]
name = "watcher-watches"
effect = "allow"
principals = ["sira://*/demo/user/watcher"]
actions = ["subscribe", "inspect"]
topics = ["agents.>", "demo.>"]
"""
SERVES = """
[[rule]]
name = "{name}-serves"
effect = "allow"
principals = ["sira://*/demo/agent/{name}"]
actions = ["subscribe"]
topics = ["agents.{name}.>"]
"""


def make(folder: Path) -> list[str]:
    """Make keys, tokens and rules in `folder`; return the flags of `sira up` that use them."""
    _sira("tls", "init", str(folder), "--name", "demo")
    for name, principal in WHO.items():
        file = str(folder / f"{name}.token")
        _sira("token", "create", principal, "--key", str(folder / "token.key"), "--out", file)
    rules = RULES + "".join(SERVES.format(name=name) for name in AGENTS)
    (folder / "rules.toml").write_text(rules, encoding="utf-8")
    return [
        "--tls-cert", str(folder / "node.pem"), "--tls-key", str(folder / "node.key"),
        "--token-keys", str(folder / "token.pub"), "--policy", str(folder / "rules.toml"),
    ]  # fmt: skip


def environment(folder: Path, name: str) -> dict[str, str]:
    """Return what a process needs to be `name`."""
    return {
        "SIRA_TLS_CA": str(folder / "ca.pem"),
        "SIRA_TOKEN_FILE": str(folder / f"{name}.token"),
        "SIRA_TOKEN": "",
    }


def _sira(*words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "sira.cli", *words], check=True, stdout=subprocess.DEVNULL
    )
