"""What Prometheus is told: a tenant its own, an operator all, and how the door is."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import sira
from sira.kernel import metrics
from sira.kernel.errors import Unauthenticated

from .keys import Keys, principal, running, until
from .test_listeners import session, url


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, dict(sample.labels), sample.value


def number(text: str, name: str, **labels: str) -> float:
    (found,) = [v for n, said, v in samples(text) if n == name and said == labels]
    return found


def test_an_operator_is_told_the_numbers_of_all_tenants_and_each_tenant_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "TENANTS_TOLD_MAX", 3)  # default, and the first two of these
    keys = Keys.new(tmp_path)

    def shown(tenant: str) -> sira.Security:
        return keys.security(token=keys.token(principal("u", tenant)))

    async def work() -> None:
        async with running(keys.flags()) as node:
            told: dict[str, str] = {}
            for count, tenant in enumerate(("imaging", "robots", "late", "later"), 1):
                async with sira.connect(url(node), security=shown(tenant)) as bus:
                    await bus.publish_many(f"{tenant}.x", ["1"] * count)
                    told[tenant] = (await bus.stats(prometheus=True)).prometheus
            async with sira.connect(url(node), security=shown("system")) as bus:
                everything = (await bus.stats(prometheus=True)).prometheus
            assert "tenant" not in told["imaging"] and "robots" not in told["imaging"]
            assert number(told["robots"], "sira_messages_in_total") == 2
            of = "sira_messages_in_total"
            assert number(everything, of, tenant="imaging") == 1
            assert number(everything, of, tenant="robots") == 2
            assert number(everything, of, tenant=metrics.OTHERS) == 3 + 4
            dropped = number(everything, "sira_dropped_total", tenant="robots", reason="NO_MATCH")
            assert dropped == 2
            assert number(everything, "sira_token_keys") == 1, "of the process: once, of no tenant"
            names = {labels.get("tenant", "") for _, labels, _ in samples(everything)}
            assert names == {"", "default", "imaging", "robots", metrics.OTHERS}

    session(work)


def test_the_state_of_the_door_is_told(tmp_path: Path) -> None:
    keys = Keys.new(tmp_path)
    rules = tmp_path / "rules.toml"
    rules.write_text('format = "sira-policy 1"\ndefault = "allow"\n')

    async def work() -> None:
        async with running(keys.flags(policy=str(rules))) as node:
            shown = keys.security(token=keys.token(principal("ann")))
            async with sira.connect(url(node), security=shown) as bus:
                before = (await bus.stats()).values
                assert (before["files_refused_total"], before["token_keys"]) == (0, 1)
                in_s = before["tls_cert_expires_s"] - time.time()
                assert 0 < in_s < 10 * 366 * 86_400
                rules.write_text("no rules")
                await until(lambda: node.files_refused > 0)
                strangers = before["calls_unidentified_total"]
                with pytest.raises(Unauthenticated):
                    await sira.connect(url(node), security=keys.security(token="none.of.ours"))
                after = (await bus.stats(prometheus=True)).prometheus
                assert number(after, "sira_files_refused_total") == 1
                assert number(after, "sira_calls_unidentified_total") > strangers
                assert re.search(r"^# TYPE sira_tls_cert_expires_s gauge$", after, re.MULTILINE)

    session(work)
