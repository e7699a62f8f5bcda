"""deploy/ passes its linters, and asks Prometheus for nothing that a node does not tell."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from sira.kernel.errors import SiraError, error_classes
from sira.testing import LocalBus
from tests import deploy_lint, promql

OF_PROMETHEUS = {"up"}  # what it says by itself about a scrape
OF_TARGETS = {"instance", "job"}  # labels that it gives to all
REASONS = re.compile(r"\| `([A-Z_]+)` \|")


@pytest.mark.parametrize("name", deploy_lint.CHECKS)
def test_a_file_of_deploy_passes(name: str) -> None:
    needs, check = deploy_lint.CHECKS[name]
    if needs in deploy_lint.missing():
        pytest.skip(f"{needs} is not installed: {deploy_lint.PACKAGES[needs]}")
    assert list(check()) == []


def told() -> dict[str, set[str]]:
    """Return what a node at work tells: metric -> its labels."""

    async def text() -> str:
        async with LocalBus() as bus, bus.subscribe("lab.>") as messages:
            await bus.publish("lab.x", {"x": b"1"})
            await messages.next(timeout_s=60)
            await bus.publish("nobody.wants.it", {"x": b"1"})
            with pytest.raises(SiraError):
                await bus.publish("proc.reserved", {"x": b"1"})
            return str((await bus.stats(prometheus=True)).prometheus)

    found: dict[str, set[str]] = defaultdict(set)
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", asyncio.run(text()), re.MULTILINE):
        found[name] |= set(re.findall(r'(\w+)="', labels))
    return found


def test_every_metric_and_label_asked_for_is_told_by_a_node() -> None:
    metrics = told()
    config = yaml.safe_load(deploy_lint.PROMETHEUS.read_text())
    ours = {
        frozenset(target["labels"])
        for job in config["scrape_configs"]
        for target in job["static_configs"]
    }
    assert ours == {frozenset({"tenant"})}, "each target says whose numbers it has"
    everywhere = OF_TARGETS | {"tenant"}
    asked = [promql.names(each) for each in deploy_lint.expressions()]
    assert len(asked) > 40
    for names in asked:
        assert names.metrics <= metrics.keys() | OF_PROMETHEUS, names.metrics - metrics.keys()
        known = everywhere.union(*(metrics[name] for name in names.metrics))
        assert names.labels <= known, (names.metrics, names.labels - known)


def test_every_code_and_reason_asked_for_is_one_that_nodes_give() -> None:
    operations = (deploy_lint.ROOT / "docs" / "operations.md").read_text()
    codes = {each.code for each in error_classes()}
    values = {"code": codes, "reason": codes | set(REASONS.findall(operations))}
    seen = 0
    for each in deploy_lint.expressions():
        for _, label, _, value in promql.names(each).matchers:
            if label in values:
                seen += 1
                assert set(value.split("|")) <= values[label], value
    assert seen >= 5


def test_the_tokenizer_reads_what_we_write() -> None:
    found = promql.names(
        "histogram_quantile(0.9, sum by (le, a) (rate(m_bucket{b=~\"x|y\", c!='z'}[5m]))) > 2e9"
        " and on (d) deriv(n[1h30m] offset 5m) unless bool_metric"
    )
    assert found.metrics == {"m_bucket", "n", "bool_metric"}
    assert found.labels == {"le", "a", "b", "c", "d"}
    assert found.matchers == {("m_bucket", "b", "=~", "x|y"), ("m_bucket", "c", "!=", "z")}


@pytest.mark.parametrize(
    "text", ["", "rate(m[5m]", "m)", "m{a='b')", "m[soon]", "m;", "sum by", "1"]
)
def test_the_tokenizer_refuses_what_is_no_expression(text: str) -> None:
    with pytest.raises(promql.Unreadable):
        promql.names(text)


@pytest.mark.parametrize(
    ("check", "file", "before", "after"),
    [
        ("dockerfile_facts", "DOCKERFILE", "USER 10001:10001", "USER root"),
        ("dockerfile_facts", "DOCKERFILE", "HEALTHCHECK", "#"),
        ("compose", "COMPOSE", "read_only: true", "read_onli: true"),
        ("compose", "COMPOSE", "cap_drop: [ALL]", "cap_drop: []"),
        ("compose", "COMPOSE", "v2.53.2", "latest"),
        ("compose", "COMPOSE", "--redis-url=redis://redis:6379", "--redis-url=http://redis:6379"),
        ("compose", "COMPOSE", "redis://redis:6379", "redis://:hush@redis:6379"),
        ("compose", "COMPOSE", "http://qdrant:6333", "http://other:6333"),
        ("compose", "COMPOSE", "internal: true", "internal: false"),
        ("compose", "COMPOSE", "networks: [stores]", "networks: [default]"),
        ("unit_facts", "UNIT", "NoNewPrivileges=yes", "NoNewPrivileges=no"),
        ("unit_facts", "UNIT", "TimeoutStopSec=50", "TimeoutStopSec=30"),
    ],
)
def test_a_check_notices_what_is_wrong(
    check: str, file: str, before: str, after: str, tmp_path: Path
) -> None:
    path: Path = getattr(deploy_lint, file)
    text = path.read_text()
    assert before in text
    changed = tmp_path / path.name
    changed.write_text(text.replace(before, after))
    assert list(getattr(deploy_lint, check)(changed))
