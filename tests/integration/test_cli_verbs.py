"""What each verb of `sira` does, against a real node."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.widgets import DataTable

import sira as sdk
from sira.cli.parser import build
from sira.cli.tensors import load_npz
from sira.cli.top import PATTERN, Pictures
from sira.cli.top_screen import TopScreen
from tests.integration.command import (
    Ended,
    finish_started,
    sira,
    started,
    wait_until,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]


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
    # So slow that what it prints fits its pipe until it is read: a full one would stop it.
    sender, first = started("pub", "lab.top", "x", "--rate", "5", url=url)
    rates = wait_until(
        "a rate in sira top",
        lambda: [
            topic
            for topic in sira("top", "--once", "--interval", "0.3", "--json", url=url).items()[0][
                "topics"
            ]
            # Nobody listens: each is counted as NO_MATCH.
            if topic["name"] == "lab.top" and topic["rate"] > 0 and topic["lost"] > 0
        ],
    )
    assert rates[0]["delivered"] == 0
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
                async with asyncio.timeout(60):
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
