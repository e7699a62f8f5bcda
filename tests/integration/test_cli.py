"""Every verb of `sira` against a real node, and the contract of --json for each of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from textual.widgets import DataTable

import sira as sdk
from sira.cli.parser import build
from sira.cli.tensors import load_npz
from sira.cli.top import PATTERN, Pictures
from sira.cli.top_screen import TopScreen
from sira.cli.verbs import VERBS
from tests.integration.command import (
    Ended,
    check_envelopes,
    finish,
    finish_started,
    node,
    read_line,
    sira,
    start,
    started,
    wait_until,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# What each verb needs to be run once and end by itself with exit code 0.
ARGUMENTS: dict[str, list[str]] = {
    "status": [],
    "top": ["--once", "--interval", "0.1"],
    "pub": ["lab.any", "hello"],
    "topics list": [],
    "topics create": ["lab.declared"],
    "topics delete": ["lab.declared"],
    "ledger": [],
    "explain": ["lab.any"],
    "doctor": [],
    "config show": [],
    "version": [],
    "bench": ["--size", "256", "--seconds", "0.2", "--rate", "100"],
}
NEED_A_PEER = {"up", "sub", "request", "events"}
NEED_FILES = {  # test_cli_trust.py
    "tls init", "tls issue", "tls show", "tls revoke",
    "token create", "token narrow", "token show", "token revoke",
}  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with node(tmp_path_factory.mktemp("node") / "data") as found:
        yield found


@pytest.fixture
def unused() -> str:
    """URL at which nobody answers."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"sira://127.0.0.1:{sock.getsockname()[1]}"


def test_every_verb_is_tested_here() -> None:
    assert set(ARGUMENTS) | NEED_A_PEER | NEED_FILES == {verb.name for verb in VERBS}


# ---- the contract of --json ----------------------------------------------------------------------


@pytest.mark.parametrize("verb", ARGUMENTS)
def test_json_is_envelopes_and_nothing_else(verb: str, url: str, tmp_path: Path) -> None:
    if verb == "topics delete":
        assert sira("topics", "create", "lab.declared", url=url).code == 0
    ended = sira(*verb.split(), *ARGUMENTS[verb], "--json", url=url, home=tmp_path)
    assert ended.code == 0, ended
    assert ended.last["type"] == "result"


@pytest.mark.parametrize("verb", ARGUMENTS)
def test_people_get_lines_and_a_clean_exit(verb: str, url: str, tmp_path: Path) -> None:
    if verb == "topics delete":
        assert sira("topics", "create", "lab.declared", url=url).code == 0
    ended = sira(*verb.split(), *ARGUMENTS[verb], url=url, home=tmp_path)
    assert ended.code == 0, ended
    assert ended.out.strip() and '{"v"' not in ended.out


@pytest.mark.parametrize(
    "verb", [v.name for v in VERBS if v.connects and v.name not in ("doctor", "config show")]
)
def test_no_node_is_one_error_that_says_what_to_do(verb: str, unused: str) -> None:
    alone = {"sub": ["lab.>"], "request": ["lab.any", "x"], "events": []}
    words = alone[verb] if verb in alone else ARGUMENTS[verb]
    ended = sira(*verb.split(), *words, "--json", url=unused)
    assert ended.code == 4
    assert ended.last["type"] == "error"
    assert ended.data["code"] == "UNREACHABLE" and "sira up" in ended.data["help"]
    assert ended.data["exit_code"] == 4


def test_for_people_an_error_is_one_line(unused: str) -> None:
    ended = sira("status", "--wait", "0.1", url=unused)
    assert (ended.code, ended.out) == (4, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("sira status: ") and "[UNREACHABLE]" in line and "sira up" in line


def test_url_comes_before_the_environment(url: str, unused: str) -> None:
    assert sira("status", "--url", url, url=unused).code == 0


ENDLESS: dict[str, list[str]] = {
    "sub": ["lab.>"],
    "events": [],
    "top": ["--interval", "30"],
    "pub": ["lab.any", "x", "--rate", "50"],
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", ENDLESS)
def test_a_signal_ends_an_endless_verb_with_a_result(
    verb: str, number: signal.Signals, url: str
) -> None:
    process, first = started(verb, *ENDLESS[verb], url=url)
    process.send_signal(number)
    ended = finish_started(process, verb, first)
    assert (ended.code, ended.last["type"]) == (0, "result"), ended


def test_sigint_ends_other_verbs_with_an_error(url: str) -> None:
    process, first = started("bench", "--seconds", "60", "--rate", "10", url=url)
    process.send_signal(signal.SIGINT)
    ended = finish_started(process, "bench", first)
    assert (ended.code, ended.data["code"]) == (130, "INTERRUPTED")


def test_sigint_ends_a_request_that_waits_with_an_error(url: str) -> None:
    holder, holding = started("sub", "lab.held", url=url)
    process, first = started("request", "lab.held", "x", "--timeout", "60", url=url)
    assert json.loads(read_line(holder))["type"] == "item"  # it was asked
    process.send_signal(signal.SIGINT)
    ended = finish_started(process, "request", first)
    assert (ended.code, ended.data["code"]) == (130, "INTERRUPTED")
    holder.kill()
    holder.communicate()
    assert holding["type"] == "start"


def test_sigint_at_any_moment_ends_with_one_envelope(url: str) -> None:
    """Python itself may be hit before it runs our first line; from there on the contract holds."""
    for delay_s in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.8):
        process = start("sub", "lab.>", "--json", url=url)
        try:
            process.wait(delay_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        if not out and "in main" not in err:
            continue
        assert "Traceback" not in err, err
        check_envelopes("sub", out.splitlines())


def test_a_reader_that_goes_away_is_no_traceback(url: str) -> None:
    process, _ = started("top", "--interval", "0.05", url=url)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr is not None and "Traceback" not in process.stderr.read()
    process.stderr.close()


# ---- verb by verb --------------------------------------------------------------------------------


def test_what_is_published_is_shown_with_its_statistics(url: str, tmp_path: Path) -> None:
    reader, first = started("sub", "lab.shown", "--count", "2", url=url)
    ended = sira(
        "pub", "lab.shown", "--tensor", "x=bf16[4,5]:range", "--tensor", "m=bool[2]:1",
        "--header", "study=7", "--priority", "3", "--json", url=url,
    )  # fmt: skip
    (receipt,) = ended.items()
    assert (receipt["matched"], receipt["grade"], receipt["lanes"]) == (1, "accepted", ["grpc"])
    assert receipt["bytes"] == 4 * 5 * 2 + 2
    np.savez(tmp_path / "t.npz", y=np.array([1.0, np.nan, 3.0]))
    assert sira("pub", "lab.shown", f"@{tmp_path}/t.npz", url=url).code == 0
    shown = finish_started(reader, "sub", first)
    one, two = shown.items()
    assert one["headers"] == {"study": "7"} and one["priority"] == 3
    assert one["id"] == receipt["id"]
    assert one["tensors"]["x"] == {
        "dtype": "bf16", "shape": [4, 5], "bytes": 40, "min": 0, "mean": 9.5, "max": 19,
        "nan_count": 0,
    }  # fmt: skip
    assert one["tensors"]["m"]["dtype"] == "bool"
    assert two["tensors"]["y"]["nan_count"] == 1 and two["tensors"]["y"]["mean"] == 2
    assert shown.data["messages"] == 2


def test_text_and_json_travel_as_such(url: str) -> None:
    reader, first = started("sub", "lab.text", "--count", "2", url=url)
    sira("pub", "lab.text", "hello \u00e9", url=url)
    sira("pub", "lab.text", '{"a": 1}', url=url)
    one, two = finish_started(reader, "sub", first).items()
    assert (one["text"], two["text"]) == ("hello \u00e9", '{"a": 1}')
    assert two["content_type"] == "application/json"


def test_saved_tensors_are_those_that_were_sent(url: str, tmp_path: Path) -> None:
    sent = tmp_path / "sent.npz"
    rng = np.random.default_rng(7)
    np.savez(sent, a=rng.random((3, 4), np.float32), b=np.arange(5, dtype=np.int64))
    words = ["--count", "3", "--save", str(tmp_path / "d")]
    reader, first = started("sub", "lab.saved", *words, url=url)
    assert sira("pub", "lab.saved", f"@{sent}", "--count", "3", url=url).code == 0
    saved = [Path(item["saved"]) for item in finish_started(reader, "sub", first).items()]
    assert len(set(saved)) == 3
    for path in saved:
        came, wanted = load_npz(path), load_npz(sent)
        assert set(came) == set(wanted)
        assert all(np.array_equal(came[name], wanted[name]) for name in wanted)


def test_pub_with_a_count_accounts_for_each(url: str) -> None:
    ended = sira("pub", "lab.many", "x", "--count", "50", "--rate", "1000", "--json", url=url)
    assert ended.code == 0
    assert (ended.data["accepted"], len(ended.items())) == (50, 50)


def test_a_refused_message_is_an_error_and_exit_code_3(url: str) -> None:
    ended = sira("pub", "lab.*", "x", "--json", url=url)
    assert (ended.code, ended.data["code"]) == (3, "BAD_TOPIC")
    ended = sira("pub", "sira.mine", "x", "--json", url=url)
    assert ended.code == 3


def test_some_refused_of_many_is_exit_code_1(url: str) -> None:
    contract = sira("topics", "create", "lab.strict", "--contract", "x=f32[2]", "--json", url=url)
    assert contract.data["contract"] == {"x": "f32[2]"}
    ended = sira("pub", "lab.strict", "--tensor", "x=f32[3]", "--count", "2", "--json", url=url)
    assert ended.code == 1
    assert (ended.data["accepted"], ended.data["refused"]) == (0, 2)
    assert [line["type"] for line in ended.envelopes] == ["start", "warning", "warning", "result"]


def test_sub_that_gets_too_few_fails(url: str) -> None:
    ended = sira("sub", "lab.silent", "--count", "1", "--timeout", "0.2", "--json", url=url)
    assert (ended.code, ended.data["messages"]) == (1, 0)


def test_members_of_a_group_share_the_messages(url: str) -> None:
    members = [started("sub", "lab.shared", "--group", "g", url=url) for _ in range(2)]
    ended = sira("pub", "lab.shared", "x", "--count", "20", "--json", url=url)
    assert all(receipt["matched"] == 1 for receipt in ended.items())

    def delivered() -> bool:
        (row,) = sira("ledger", "lab.shared", "--json", url=url).items()
        return bool(row["delivered"] == 20)

    wait_until("all delivered", delivered)
    counts = []
    for process, first in members:
        process.send_signal(signal.SIGINT)
        counts.append(finish_started(process, "sub", first).data["messages"])
    assert sum(counts) == 20


def test_request_without_a_listener_is_no_match(url: str) -> None:
    ended = sira("request", "lab.nobody", "x", "--json", url=url)
    assert (ended.code, ended.data["code"]) == (3, "NO_MATCH")


def ask(handler: Any, *words: str, url: str) -> Ended:
    """Run `sira request lab.asked WORDS` while an agent with `handler` serves the topic."""

    async def serve() -> Ended:
        async with sdk.Agent("asked-1", topic="lab.asked", handler=handler, url=url):
            return await asyncio.to_thread(sira, "request", "lab.asked", *words, url=url)

    return asyncio.run(serve())


def test_request_shows_the_reply(url: str, tmp_path: Path) -> None:
    def double(x: Any) -> dict[str, Any]:
        return {"y": x * 2}

    saved = tmp_path / "reply.npz"
    words = ["--tensor", "x=f32[3]:range", "--save", str(saved), "--json"]
    ended = ask(double, *words, url=url)
    (item,) = ended.items()
    assert ended.code == 0 and (ended.data["replies"], ended.data["round_trip_ns"] > 0) == (1, True)
    assert (item["source"], item["tensors"]["y"]["max"]) == ("asked-1", 4)
    assert load_npz(saved)["y"].tolist() == [0, 2, 4]
    text = ask(double, "--tensor", "x=f32[3]:range", url=url)
    assert "asked-1" in text.out and "y: f32[3]" in text.out and "1 reply in" in text.out


def test_request_takes_a_stream_of_replies(url: str) -> None:
    def count(x: Any) -> Iterator[dict[str, Any]]:
        for number in range(int(x)):
            yield {"n": np.array(number)}

    ended = ask(count, "--tensor", "x=i64[]:4", "--stream", "--json", url=url)
    assert (ended.code, ended.data["replies"]) == (0, 4)
    assert [item["tensors"]["n"]["max"] for item in ended.items()] == [0, 1, 2, 3]


def test_a_handler_that_fails_is_exit_code_3(url: str) -> None:
    def fail(x: Any) -> None:
        raise ValueError("no")

    ended = ask(fail, "--tensor", "x=f32[1]", "--json", url=url)
    assert (ended.code, ended.data["code"]) == (3, "HANDLER_FAILED")


def test_bytes_that_are_no_text_are_counted(url: str, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"\xff\x00\x01")
    reader, first = started("sub", "lab.raw", "--count", "1", url=url)
    assert sira("pub", "lab.raw", f"@{tmp_path}/raw", url=url).code == 0
    (item,) = finish_started(reader, "sub", first).items()
    assert (item["text"], item["tensors"], item["payload_bytes"]) == (None, {}, 3)


def test_topics_are_created_listed_and_deleted(url: str) -> None:
    assert sira("topics", "create", "lab.kept", "--kind", "latest", url=url).code == 0
    (item,) = sira("topics", "lab.kept", "--json", url=url).items()
    assert (item["name"], item["kind"], item["declared"]) == ("lab.kept", "latest", True)
    assert sira("topics", "delete", "lab.kept", url=url).code == 0
    assert sira("topics", "lab.kept", "--json", url=url).items() == []
    assert sira("topics", "delete", "lab.kept", "--json", url=url).data["code"] == "NOT_FOUND"


def test_a_durable_topic_is_refused_by_name(url: str) -> None:
    ended = sira("topics", "create", "lab.log", "--kind", "durable", "--json", url=url)
    assert (ended.code, ended.data["code"]) == (3, "UNSUPPORTED")


def test_the_ledger_says_what_became_of_each(url: str) -> None:
    sira("pub", "lab.alone", "x", "--count", "3", url=url)
    ended = sira("ledger", "lab.alone", "--json", url=url)
    (row,) = ended.items()
    assert (row["published"], row["owed"], row["dropped"]) == (3, 3, {"NO_MATCH": 3})
    assert ended.code == 0 and ended.data["balanced"] and row["balanced"]


def test_explain_names_who_gets_it(url: str) -> None:
    reader, first = started("sub", "lab.explained.*", "--count", "1", url=url)
    ended = sira("explain", "lab.explained.x", "--wait", "30", "--json", url=url)
    assert ended.code == 0 and ended.data["decision"] == "allow"
    (match,) = ended.data["matches"]
    assert (match["pattern"], match["lane"]) == ("lab.explained.*", "grpc")
    assert match["lane_reason"]
    sira("pub", "lab.explained.x", "done", url=url)
    assert finish_started(reader, "sub", first).code == 0


def test_explain_fails_when_nobody_comes(url: str) -> None:
    assert sira("explain", "lab.empty", "--wait", "0.1", "--json", url=url).code == 1
    assert sira("explain", "lab.empty", "--json", url=url).code == 0


def test_status_knows_who_is_there(url: str) -> None:
    reader, first = started("sub", "lab.status", "--count", "1", url=url)
    data = sira("status", "--json", url=url).data
    assert data["url"] == url and data["balanced"] and data["subscriptions"] >= 1
    assert data["features"] and data["lanes"] == ["grpc"]
    sira("pub", "lab.status", "x", url=url)
    finish_started(reader, "sub", first)


def test_status_gives_metrics_for_prometheus(url: str) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    ended = sira("status", "--prometheus", url=url)
    families = {family.name: family for family in text_string_to_metric_families(ended.out)}
    assert ended.code == 0 and families
    assert any(family.type == "histogram" for family in families.values())
    assert all(name.startswith("sira_") for name in families)


def test_top_shows_rates(url: str) -> None:
    sender, first = started("pub", "lab.top", "x", "--rate", "200", url=url)
    rates = wait_until(
        "a rate in sira top",
        lambda: [
            topic
            for topic in sira("top", "--once", "--interval", "0.3", "--json", url=url).items()[0][
                "topics"
            ]
            if topic["name"] == "lab.top" and topic["rate"] > 0
        ],
    )
    assert rates[0]["lost"] > 0  # nobody listens: each is counted as NO_MATCH
    sender.send_signal(signal.SIGINT)
    assert finish_started(sender, "pub", first).code == 0


def test_the_screen_of_top_follows_the_node(url: str) -> None:
    """The live view, driven as a terminal would: rows come, `p` pauses, `q` ends it."""

    async def watch() -> tuple[int, int]:
        args = build().parse_args(["top", "--interval", "0.05", "--url", url])
        async with sdk.connect(url) as bus, bus.subscribe(PATTERN) as messages:
            screen = TopScreen(messages, Pictures(">", bus.node.tenant), args)
            async with screen.run_test(size=(140, 40)) as pilot:
                await bus.publish("lab.screen", "x")
                topics: DataTable[str] = screen.query_one("#topics", DataTable)
                async with asyncio.timeout(30):
                    while not any(
                        topics.get_row_at(i)[0] == "lab.screen" for i in range(topics.row_count)
                    ):
                        await pilot.pause(0.02)
                await pilot.press("p")
                await pilot.pause()
                paused = screen.pictures
                await screen.refresh_now()
                still = screen.pictures
                await pilot.press("p")
                await pilot.pause()
                await screen.refresh_now()
                assert screen.pictures > still
                await pilot.press("q")
            return paused, still

    paused, still = asyncio.run(watch())
    assert still - paused <= 1  # one may have been under way when `p` was pressed


def test_doctor_reaches_the_node(url: str, tmp_path: Path) -> None:
    ended = sira("doctor", "--data-dir", str(tmp_path), "--json", url=url)
    checks = {check["name"]: check for check in ended.items()}
    assert ended.code == 0 and ended.data["failed"] == 0
    assert checks["node"]["state"] == "ok" and checks["native core"]["state"] == "ok"
    assert {"python", "versions", "uvloop", "data folder", "port"} <= set(checks)
    assert {"clock", "open files", "memory", "huge pages"} <= set(checks)


def test_doctor_fails_for_a_node_that_does_not_answer(unused: str, tmp_path: Path) -> None:
    ended = sira("doctor", "--data-dir", str(tmp_path), "--json", url=unused)
    assert (ended.code, ended.data["failed"]) == (1, 1)
    (failed,) = [check for check in ended.items() if check["state"] == "failed"]
    assert failed["name"] == "node" and failed["help"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_doctor_fails_for_a_folder_it_cannot_write(url: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    ended = sira("doctor", "--data-dir", str(tmp_path), "--json", url=url)
    assert ended.code == 1


def test_config_says_where_each_value_comes_from(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("stall_s = 3\nwindow_messages = 99\n")
    words = ["--config", str(tmp_path / "s.toml"), "--stall-s", "4", "--json"]
    rows = {row["name"]: row for row in sira("config", "show", *words, home=tmp_path).items()}
    assert (rows["stall_s"]["value"], rows["stall_s"]["origin"]) == ("4.0", "flag")
    assert (rows["window_messages"]["value"], rows["window_messages"]["origin"]) == ("99", "file")
    assert rows["queue_bytes_max"]["origin"] == "default"
    assert all(row["reason"] and row["schema"]["type"] for row in rows.values())


def test_config_shows_those_of_the_running_node(url: str) -> None:
    rows = {row["name"]: row for row in sira("config", "--running", "--json", url=url).items()}
    assert rows["listen"]["origin"] == "flag"


def test_a_bad_setting_is_refused_by_name(tmp_path: Path) -> None:
    ended = sira("up", "--stall-s", "never", "--json", home=tmp_path)
    assert ended.data["code"] == "BAD_SETTING" and "stall_s" in ended.data["message"]
    assert ended.code == 3


def test_up_on_a_taken_port_says_so(url: str, tmp_path: Path) -> None:
    address = url.removeprefix("sira://")
    ended = sira("up", "--listen", address, "--data-dir", str(tmp_path / "other"), "--json")
    assert ended.last["type"] == "error" and ended.code != 0
    assert ended.data["code"] == "ADDRESS_IN_USE"


def test_version_is_that_of_the_package() -> None:
    from sira import __version__

    assert sira("version").out.strip() == __version__
    assert sira("version", "--json").data["native"] == __version__


# ---- bench ---------------------------------------------------------------------------------------


def bench(url: str, *words: str) -> Any:
    return sira("bench", "--seconds", "0.3", *words, "--json", url=url)


def test_bench_counts_every_message(url: str) -> None:
    data = bench(url, "--size", "64KiB", "--rate", "200").data
    assert data["payload"] == {"dtype": "f32", "shape": [16384], "bytes": 65536}
    assert data["lost"] == 0 and data["broken"] == 0
    assert data["ledger"]["balanced"] and data["ledger"]["unexplained"] == 0
    assert data["ledger"]["published"] == data["ledger"]["delivered"] >= data["messages"] > 0
    assert data["lane"] == "grpc" and data["gb_per_s"] > 0
    assert data["latency_us"]["p50"] <= data["latency_us"]["p99"] <= data["latency_us"]["max"]


def test_bench_moves_large_tensors_unchanged(url: str) -> None:
    data = bench(url, "--size", "4MiB").data
    assert data["messages"] > 0 and data["lost"] == 0 and data["broken"] == 0


def test_bench_asks_and_is_answered(url: str) -> None:
    data = bench(url, "--pattern", "request", "--size", "256", "--in-flight", "4").data
    assert data["messages"] > 0 and data["broken"] == 0 and data["lost"] == 0


def test_bench_saves_judges_and_draws(url: str, tmp_path: Path) -> None:
    base, plot = tmp_path / "base.json", tmp_path / "plot.png"
    words = ["--size", "256", "--rate", "100"]
    assert bench(url, *words, "--save", str(base), "--plot", str(plot)).code == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    saved = json.loads(base.read_text())
    saved["result"]["rate_achieved"] *= 1000
    base.write_text(json.dumps(saved))
    ended = bench(url, *words, "--baseline", str(base))
    assert (ended.code, ended.data["verdict"]["state"]) == (1, "slower")
    other = bench(url, "--size", "512", "--rate", "100", "--baseline", str(base))
    assert (other.code, other.data["verdict"]["state"]) == (0, "not comparable")


def test_a_killed_bench_leaves_no_workers(url: str) -> None:
    process, _ = started("bench", "--seconds", "2", "--rate", "10", url=url)
    parent = psutil.Process(process.pid)
    workers = wait_until("two workers", lambda: (c := parent.children()) and len(c) == 2 and c)
    process.kill()
    process.communicate()
    wait_until("no worker left", lambda: not any(worker.is_running() for worker in workers))


def test_a_worker_that_cannot_start_is_an_error(unused: str) -> None:
    process = start("bench", "--json", url=unused)
    assert finish(process, "bench", as_json=True).code == 4
