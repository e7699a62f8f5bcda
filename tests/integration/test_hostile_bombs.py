"""Small input that asks for much work: bounded, a typed error, and others have the loop meanwhile.

What a turn of the loop costs is taken in CPU of the loop's own thread, so that a busy machine
changes nothing, and is held against a calm message of the same run.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from sira.kernel.errors import BadSetting, SiraError
from sira.kernel.node import Node
from sira.kernel.policy import load as policy_file
from sira.v1 import bus_pb2, kernel_pb2
from tests.integration.node.plain import (
    Plain,
    code_of,
    data_of,
    frame,
    message,
    running,
    within,
)  # fmt: skip

pytestmark = [pytest.mark.integration, pytest.mark.slow]
WATCHDOG_S = 100.0


@dataclass
class Turns:
    """CPU of the turns of this loop, ns."""

    worst_ns: int = 0
    total_ns: int = 0
    count: int = 0
    seen: list[int] = field(default_factory=list)


@contextmanager
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    """Look at each callback that asyncio's loop runs in this thread while inside."""
    turns, run = Turns(), asyncio.Handle._run

    def watched(self: asyncio.Handle) -> None:
        begun_ns = time.thread_time_ns()
        run(self)
        used_ns = time.thread_time_ns() - begun_ns
        turns.worst_ns = max(turns.worst_ns, used_ns)
        turns.total_ns += used_ns
        turns.count += 1

    gc.collect()
    gc.disable()  # what other tests of this process left to collect is no part of it
    try:
        with monkeypatch.context() as patched:
            patched.setattr(asyncio.Handle, "_run", watched)
            yield turns
    finally:
        gc.enable()


def alone(work: Callable[[Node, Plain, Plain], Awaitable[None]], **flags: object) -> None:
    """Run `work` with a node, an attacker and a bystander here, on asyncio's own loop."""

    async def main() -> None:
        async with (
            asyncio.timeout(WATCHDOG_S),
            running(**flags) as node,
            Plain(node.address) as attacker,
            Plain(node.address) as calm,
        ):
            await work(node, attacker, calm)
            sub, pub = calm.subscribing(), calm.publishing()
            await sub.opened(1, "calm.after")
            await pub.publish(message("calm.after", b"still here"))
            assert data_of(await sub.next()) == b"still here"
            await calm.ledger()

    asyncio.run(main())


async def _answers(call: Any, count: int) -> list[bus_pb2.Item]:
    found: list[bus_pb2.Item] = []
    while len(found) < count:
        data = await within(call.read())
        assert data is not grpc.aio.EOF, f"the stream ended after {len(found)} of {count}"
        found += bus_pb2.Frame.FromString(data).items
    return found


def _wild(depth: int, count: int) -> list[str]:
    """Patterns of `a` and `*`, all of which match a topic of `a` alone."""
    every = itertools.product("a*", repeat=depth)
    return [".".join(each) + ".>" for each in itertools.islice(every, count)]


# ---- what one frame may cost -------------------------------------------------------------------


def test_a_frame_of_new_topics_for_thousands_of_wildcards_gives_the_loop_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It held the loop for 10 s: 500 topics, 9,000 matches each, all in one turn."""
    topics, patterns = 60, 4_000

    async def work(_: Node, attacker: Plain, calm: Plain) -> None:
        sub = attacker.channel.stream_stream("/sira.v1.Bus/Subscribe")()
        opens = [
            bus_pb2.Item(open=bus_pb2.Open(subscription=number, pattern=each, overflow=2))
            for number, each in enumerate(_wild(14, patterns), 1)
        ]
        await sub.write(frame(*opens).SerializeToString())
        assert all(each.HasField("opened") for each in await _answers(sub, patterns))
        first = ".".join("a" * 15)
        with measured(monkeypatch) as one:
            (receipt,) = await attacker.publishing().publish(message(first))
        assert receipt.matched == patterns
        with measured(monkeypatch) as many:
            pub = attacker.publishing()
            await pub.send(*(bus_pb2.Item(message=message(f"{first}.{n}")) for n in range(topics)))
            waiting = asyncio.ensure_future(pub.items(topics))
            done = 0
            echo, out = calm.subscribing(), calm.publishing()
            await echo.opened(1, "calm.echo")
            while not waiting.done():
                await out.publish(message("calm.echo"))
                await echo.next()
                done += 1
        receipts = [each.receipt for each in waiting.result()]
        assert all(each.matched == patterns for each in receipts)
        assert many.worst_ns < 4 * one.worst_ns, "no turn costs what a few such topics cost"
        assert done > 3, "the bystander was served between them"

    alone(work)


def test_a_frame_of_thousands_of_subscriptions_gives_the_loop_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 8_000

    async def work(_: Node, attacker: Plain, __: Plain) -> None:
        patterns = _wild(14, count)
        sub = attacker.channel.stream_stream("/sira.v1.Bus/Subscribe")()
        opens = [
            bus_pb2.Item(open=bus_pb2.Open(subscription=number, pattern=each))
            for number, each in enumerate(patterns, 1)
        ]
        data = frame(*opens).SerializeToString()
        assert len(data) < 2 << 20, "it is one frame"
        with measured(monkeypatch) as turns:
            await sub.write(data)
            await _answers(sub, count)
        assert turns.worst_ns < turns.total_ns / 3, "it came in turns, not in one"

    alone(work)


# ---- names and contracts -----------------------------------------------------------------------

BOMBS = {
    "rank 1,000": {"x": f"f32[{','.join('1' * 1_000)}]"},
    "a name of a megabyte": {"x": f"f32[{'A' * 1_000_000}]"},
    "20,000 tensors": {f"x{number}": "f32[A]" for number in range(20_000)},
    "a thousand names": {
        f"x{number}": f"f32[{','.join(f'v{number}_{d}' for d in range(16))}]"
        for number in range(32)
    },
    "open brackets": {"x": "f32" + "[" * 100_000},
    "a size past 64 bits": {"x": f"f32[{'9' * 400}]"},
    "a bound past 64 bits": {"x": f"f32[N<={'9' * 400}]"},
    "no type": {"x": "|" * 100_000},
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_contract_that_asks_for_much_is_a_typed_error_that_costs_little(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No more than reading so many bytes costs: a request of the same size, of nothing but text."""
    contract = BOMBS[name]
    request = bus_pb2.CreateTopicRequest(name="bomb.a", contract=contract)

    async def work(_: Node, attacker: Plain, __: Plain) -> None:
        size = request.ByteSize()
        with measured(monkeypatch) as benign:
            for _ in range(3):  # the largest contract that is taken, and a request of that size
                await attacker.create("ok.a", contract={"x": "f32[" + ",".join("1" * 16) + "]"})
                await _refused(attacker.create("." + "b" * size))
        with measured(monkeypatch) as turns:
            assert await _refused(attacker.create("bomb.a", contract=contract)) == "BAD_REQUEST"
            sub = attacker.subscribing()
            answer = await sub.open(1, "bomb.b", contract=contract)
            assert answer.ended.error.code == "BAD_REQUEST"
        allowed_ns = 20 * benign.worst_ns + 2_000 * len(contract)  # each name is an object
        assert turns.worst_ns < allowed_ns, (turns, benign)

    alone(work)


async def _refused(call: Awaitable[Any]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return code_of(caught.value)


@pytest.mark.parametrize(
    "pattern",
    [
        ".".join("*" * 17), ".".join("*" * 5_000), "*" * 1_000, ">" * 1_000, "a." * 1_000 + ">",
        "(a+)+$", "^(([a-z])+.)+[A-Z]([a-z])+$", ".*.*.*.*.*b", "a{1000000}",
    ],
)  # fmt: skip
def test_a_pattern_that_looks_like_work_is_refused_or_is_a_name_like_any_other(
    pattern: str,
) -> None:
    async def work(_: Node, attacker: Plain, __: Plain) -> None:
        sub = attacker.subscribing()
        answer = await sub.open(1, pattern)
        if answer.HasField("ended"):
            assert answer.ended.error.code == "BAD_TOPIC"
        ledger = attacker.kernel.Ledger(kernel_pb2.LedgerRequest(pattern=pattern), timeout=20)
        try:
            await ledger
        except grpc.aio.AioRpcError as error:
            assert code_of(error) == "BAD_TOPIC"

    alone(work)


# ---- files -------------------------------------------------------------------------------------

HEAD = 'format = "sira-policy 1"\ndefault = "allow"\n'


def _cedar(condition: str) -> str:
    return f"permit (principal, action, resource) when {{ {condition} }};"


DEEP_DOTS = ".".join("a" * 5_000)
FILES = {
    "brackets.toml": HEAD + "x = " + "[" * 200_000,
    "closed.toml": HEAD + "x = " + "[" * 50_000 + "]" * 50_000,
    "tables.toml": HEAD + "x = " + "{a=" * 20_000,
    "dots.toml": HEAD + f"{DEEP_DOTS} = 1\n",
    "dotted.toml": HEAD + f"[{DEEP_DOTS}]\n",
    "digits.toml": HEAD + "x = " + "9" * 5_000_000,
    "ten megabytes.toml": HEAD + "# " + "x" * (10 << 20) + "\ndefault_ = 1\n",
    "too long.toml": HEAD + "# " + "x" * (17 << 20),
    "rules.toml": HEAD + "[[rule]]\n" * 200_000,
    "patterns.toml": HEAD + '[[rule]]\nname="r"\neffect="deny"\nprincipals="*"\n'
    'actions="publish"\ntopics=[' + '"a.*.>",' * 600_000 + "]\n",
    "wildcards.toml": HEAD + '[[rule]]\nname="r"\neffect="deny"\nprincipals="*"\n'
    f'actions="publish"\ntopics="{".".join("*" * 5_000)}"\n',
    "brackets.cedar": _cedar("(" * 5_000 + "true" + ")" * 5_000),
    "nots.cedar": _cedar("!" * 5_000 + "true"),
    "ifs.cedar": _cedar("if true then true else " * 500 + "true"),
    "many.cedar": _cedar("true") * 1_001,
    "long.cedar": _cedar(" && ".join(['resource.name like "*a*a*a*a*b"'] * 1_000)),
    "not Cedar.cedar": "\x00" * 1_000,
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_policy_file_that_asks_for_much_is_a_typed_error_and_the_old_one_stays(
    tmp_path: Path, name: str
) -> None:
    file = tmp_path / f"rules{Path(name).suffix}"
    file.write_text(FILES[name])
    with pytest.raises(BadSetting) as caught:
        policy_file.load(str(file))
    assert len(str(caught.value)) < 2_000, "a part of it, not all of it"
    good = HEAD if file.suffix == ".toml" else _cedar("true")
    file.write_text(good)

    async def work(node: Node, _: Plain, calm: Plain) -> None:
        version, turns = node.access.version, 0
        file.write_text(FILES[name])
        pub = calm.publishing()
        while not node.files_refused:
            (receipt,) = await pub.publish(message("calm.meanwhile"))
            assert not receipt.HasField("error")
            turns += 1
        assert node.access.version == version
        assert turns > 0

    alone(work, policy=str(file), reload_s=0.02)


def test_a_decision_of_a_costly_cedar_policy_is_made_once_and_bounded(tmp_path: Path) -> None:
    """The largest that is taken: patterns with many stars, over long names."""
    file = tmp_path / "rules.cedar"
    stars = "*a" * 20 + "*b"
    one = " && ".join([f'!(resource.name like "{stars}")'] * 100)
    assert len(one) < 16_384
    file.write_text(_cedar(one) * 50)

    async def work(node: Node, attacker: Plain, calm: Plain) -> None:
        topic = ".".join(["a" * 15] * 15)
        before = node.access.version
        (first, second) = await attacker.publishing().publish(message(topic), message(topic))
        assert not first.HasField("error") and not second.HasField("error"), (first, second)
        assert node.access.version == before

    alone(work, policy=str(file))


def test_errors_of_the_loader_are_ours_for_any_text(tmp_path: Path) -> None:
    """Whatever is in the file, nothing but BadSetting leaves the loader."""
    file = tmp_path / "rules.toml"
    for text in ("\x00", "[[[[", "a = " + "{" * 2_000, '"' * 99_999, "[" + "a." * 9_999 + "b]",
                 "x = 1979-99-99", "x = \"\\UFFFFFFFF\"", json.dumps({"a": 1})):  # fmt: skip
        file.write_text(text)
        with pytest.raises(SiraError) as caught:
            policy_file.load(str(file))
        assert isinstance(caught.value, BadSetting)
