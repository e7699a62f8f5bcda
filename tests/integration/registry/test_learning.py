"""What a node learns while it runs: used, named in reasons, kept, and done again when due."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sira.registry.learning.lease import TTL_S, Lease
from sira.registry.learning.trainer import FOLDER, Trainer
from sira.v1 import registry_pb2
from tests.small_model import make_model
from tests.unit.registry.agents_of_a_house import EXAMPLES

from .nodes import Running, connected, register, run, running, until

pytestmark = pytest.mark.integration
pb = registry_pb2
SOON = {"learn_interval_s": 0.05, "learn_examples_min": 10}
# Two agents say something of it; which one is meant is learned.
TEXT = "cancel lunch in the evening"


def agent(name: str, text: str, *examples: str) -> pb.Registration:
    capability = pb.Capability(text=text, examples=examples)
    return pb.Registration(name=name, capabilities=[capability])


def house() -> list[pb.Registration]:
    return [agent(name, text, *asked) for name, (text, asked) in EXAMPLES.items()]


@asynccontextmanager
async def node(folder: Path, **flags: Any) -> AsyncIterator[tuple[Running, Trainer, Any]]:
    async with running(folder, **SOON | flags) as its, connected(its.node) as stub:
        assert its.registry.trainer is not None
        yield its, its.registry.trainer, stub


def version(its: Running) -> str:
    """Return which head is used; "": none is."""
    trained = its.registry.feed.of("default").search.trained("agent")
    return "" if trained is None else trained.version


async def learned(its: Running, *, other_than: str = "") -> str:
    """Return which head is used, once there is another one."""
    await until(lambda: version(its) not in ("", other_than))
    return version(its)


async def at_rest(trainer: Trainer) -> None:
    """Wait until it has looked at all that has moved."""
    states = trainer._states
    await until(
        lambda: not trainer.is_looking and all(s.look_s == math.inf for s in states.values())
    )


def file_of(folder: Path) -> Path:
    (path,) = (folder / FOLDER).glob("*.sira")
    return path


def test_examples_are_learned_from_and_reasons_name_the_head(tmp_path: Path) -> None:
    async def first() -> pb.DiscoverResponse:
        async with running(tmp_path, learn_interval_s=0) as its, connected(its.node) as stub:
            assert its.registry.trainer is None, "it was told not to learn"
            await register(stub, *house())
            assert not (await stub.Learned(pb.LearnedRequest())).learned
            return await stub.Discover(pb.DiscoverRequest(text=TEXT, any_status=True))

    async def then() -> None:
        before = await first()
        assert before.is_shortlist and before.matches[0].agent == "calendar"
        async with node(tmp_path) as (its, trainer, stub):
            head = await learned(its)
            after = await stub.Discover(pb.DiscoverRequest(text=TEXT, any_status=True))
            assert not after.is_shortlist and [m.agent for m in after.matches] == ["calendar"]
            (reason,) = (each for each in after.matches[0].reasons if each.part == "head")
            assert head[:8] in reason.text
            (told,) = (await stub.Learned(pb.LearnedRequest())).learned
            assert (told.kind, told.version, told.capabilities) == ("agent", head, 6)
            assert (told.examples, told.held_out, trainer.failed) == (36, 6, 0)
            assert 0 <= told.right <= 1 and told.trained_ns > 0

    run(then)


def test_what_was_learned_outlives_the_node_and_is_not_learned_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with node(tmp_path) as (its, trainer, stub):
            await register(stub, *house())
            head = await learned(its)
        async with node(tmp_path) as (its, trainer, stub):
            assert version(its) == head, "used before the node listens"
            await register(stub, *house())
            await at_rest(trainer)
            assert (trainer.trained, trainer.failed, version(its)) == (0, 0, head)

    run(work)


@pytest.mark.parametrize("how", ["torn", "changed", "gone", "unpublished"])
def test_a_file_that_cannot_be_believed_is_made_again(tmp_path: Path, how: str) -> None:
    async def work() -> None:
        async with node(tmp_path) as (its, trainer, stub):
            await register(stub, *house())
            head = await learned(its)
            await at_rest(trainer)
            if how == "unpublished":
                await its.tables.transact(deletes=[("learned", "default/agent")])
        path = file_of(tmp_path)
        whole = path.read_bytes()
        if how == "torn":
            path.write_bytes(whole[: len(whole) * 2 // 3])
        elif how == "changed":
            path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        elif how == "gone":
            path.unlink()
        async with node(tmp_path) as (its, trainer, _):
            await until(lambda: trainer.trained)
            assert version(its) == head, "the same examples give the same head"
        assert len(file_of(tmp_path).read_bytes()) == len(whole)

    run(work)


def test_other_examples_and_liked_requests_give_another_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sira.registry.learning.when.REST_FACTOR", 0)

    async def work() -> None:
        async with node(tmp_path) as (its, trainer, stub):
            await register(stub, *house())
            one = await learned(its)
            await register(stub, agent("garden", "Waters plants", "the roses are dry"))
            two = await learned(its, other_than=one)
            await at_rest(trainer)
            liked = pb.RateRequest(agent="garden", capability="waters-plants", query="rain?")
            await stub.Rate(liked)  # not liked: nothing to learn
            await at_rest(trainer)
            assert version(its) == two
            liked.ok = True
            await stub.Rate(liked)
            await learned(its, other_than=two)
            (told,) = (await stub.Learned(pb.LearnedRequest())).learned
            assert (told.capabilities, told.examples) == (7, 38)

    run(work)


def test_with_a_model_its_vectors_are_learned_with_and_without_it_nothing_of_that_is_used(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    make_model(folder)
    model = {"embedder_dir": str(folder)}

    async def work() -> None:
        async with node(tmp_path, **model) as (its, trainer, stub):
            await register(stub, *house())
            head = await learned(its)
            (told,) = (await stub.Learned(pb.LearnedRequest())).learned
            assert told.embedder.startswith("onnx-model/") and not trainer.failed
        async with node(tmp_path, **model) as (its, trainer, _):
            await at_rest(trainer)
            assert (version(its), trainer.trained) == (head, 0)
        async with node(tmp_path) as (its, trainer, stub):
            await until(lambda: trainer.trained)
            (told,) = (await stub.Learned(pb.LearnedRequest())).learned
            assert told.embedder == ""

    run(work)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_is_late_costs_nothing_but_time(tmp_path: Path, end: int) -> None:
    async def work() -> None:
        async with node(tmp_path, learn_s_max=1.0) as (its, trainer, stub):
            number = 0
            while not trainer.failed:
                if trainer.process is None:  # not there yet, or faster than we are: another one
                    number += 1
                    await register(stub, *house(), agent("late", "Waits", f"number {number}"))
                else:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(trainer.process.pid, end)
                await asyncio.sleep(0.01)
            found = await stub.Discover(pb.DiscoverRequest(text=TEXT, any_status=True))
            assert found.matches[0].agent == "calendar"
        async with node(tmp_path) as (its, trainer, _):
            await learned(its)

    run(work)


def test_one_core_learns_at_a_time(tmp_path: Path) -> None:
    async def work() -> None:
        async with node(tmp_path) as (its, trainer, stub):
            loop = asyncio.get_running_loop()
            async with Lease(its.tables, "another"):
                await register(stub, *house())
                (state,) = trainer._states.values()
                await until(lambda: TTL_S / 2 < state.look_s - loop.time() < math.inf)
                assert not (trainer.trained or trainer.failed or version(its))
            state.look_s = loop.time()
            trainer._woken.set()
            await learned(its)

    run(work)
