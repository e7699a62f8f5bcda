"""What a limit has no room for is 429 over HTTP, and says when to come again."""

from __future__ import annotations

from pathlib import Path

import pytest

import sira

from .calls import Answer, listening, until

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def limits(folder: Path, rules: str) -> dict[str, object]:
    file = folder / "limits.toml"
    file.write_text(f'format = "sira-limits 1"\n{rules}')
    return {"limits_file": str(file), "reload_s": 0.02}


def assert_later(answer: Answer, code: str = "RATE_LIMITED") -> None:
    said = answer.problem(429, code)
    assert said["retryable"] and said["retry_after_ms"] > 0
    assert int(answer.headers["retry-after"]) >= said["retry_after_ms"] / 1e3


def test_what_a_rate_has_no_room_for_is_429_with_retry_after_however_short_the_time(
    tmp_path: Path,
) -> None:
    rules = (
        '[[limit]]\nname = "slow"\nscope = "topic"\npattern = "lab.slow"\n'
        "messages_per_s = 0.01\nburst_s = 100\n"
    )
    with listening(**limits(tmp_path, rules)) as (_, http):
        assert http.post("/v1/publish/lab.slow", "x").status == 200
        for query in ("", "?timeout_s=0.02", "?timeout_s=0.02", "?timeout_s=0.5", "?timeout_s=200"):
            assert_later(http.post(f"/v1/publish/lab.slow{query}", "x"))
        assert_later(http.post("/v1/request/lab.slow?timeout_s=200", "x"))
        assert http.post("/v1/publish/lab.other", "x").status == 200


def test_bytes_held_are_429_too_and_what_never_has_room_is_not_to_be_tried_again(
    tmp_path: Path,
) -> None:
    rules = '[[limit]]\nname = "held"\nscope = "topic"\npattern = "lab.held"\nheld_bytes = 3000\n'
    with listening(stall_s=60, **limits(tmp_path, rules)) as (node, http):
        never = http.post("/v1/publish/lab.held", b"x" * 4_000).problem(429, "QUOTA_EXCEEDED")
        assert not never["retryable"]
        with (
            sira.connect_sync(node.url) as bus,
            bus.subscribe("lab.held", window_messages=1) as messages,
        ):
            answers = [http.post("/v1/publish/lab.held", b"x" * 1_000) for _ in range(5)]
            held = [answer for answer in answers if answer.status != 200]
            assert held
            for answer in held:
                assert_later(answer, "QUOTA_EXCEEDED")
            for _ in range(len(answers) - len(held)):
                messages.next(timeout_s=60)


def test_a_stream_that_a_limit_refuses_is_429_and_those_that_are_open_stay(tmp_path: Path) -> None:
    rules = '[[limit]]\nname = "each"\nscope = "principal"\nmessages_per_s = 0.01\nburst_s = 100\n'
    with listening(**limits(tmp_path, rules)) as (_, http), http.events("lab.x") as events:
        for _ in range(3):  # the one token was for the events
            assert_later(http.post("/v1/publish/lab.x", "x"))
        limits(tmp_path, "")
        until(lambda: http.post("/v1/publish/lab.x", "y").status == 200, "the limit is lifted")
        assert events.message()["text"] == "y"
