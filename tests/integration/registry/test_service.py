"""`sira.v1.Registry` for a plain gRPC client: registering, beating, finding, following."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from sira.registry.health import Status
from sira.registry.records import checked
from sira.v1 import registry_pb2
from tests.small_model import make_model

from .nodes import connected, register, registration, run, running, until

pytestmark = pytest.mark.integration
pb = registry_pb2
ONE, TWO = "1" * 32, "2" * 32
BEATER = Path(__file__).with_name("beater.py")
FAST = {"agent_beat_s": 0.1, "agent_suspect_s": 0.3, "agent_lease_s": 0.6}


def beats(stub: Any) -> Any:
    return stub.Heartbeat()


async def beat(call: Any, done: pb.Registered, **load: Any) -> None:
    one = pb.Beat(name=done.name, generation=done.generation, **load)
    await call.write(pb.HeartbeatRequest(beats=[one]))


def test_what_is_registered_is_found_with_reasons(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as its, connected(its.node) as stub:
            await register(
                stub,
                registration("seg-1", "segment organs in CT images", "count cells"),
                registration("mail-1", "send a message by electronic mail"),
            )
            found = await stub.Discover(pb.DiscoverRequest(text="organs in a CT"))
            best = found.matches[0]
            assert (best.agent, best.capability) == ("seg-1", "segment-organs-in-ct-images")
            assert best.topic == "agents.seg-1.segment-organs-in-ct-images"
            assert best.state.status == pb.AGENT_STATUS_UP
            assert best.reasons and not found.no_match and found.revision
            by_name = await stub.Discover(pb.DiscoverRequest(capability="count-cells"))
            assert [each.agent for each in by_name.matches] == ["seg-1"]
            nothing = await stub.Discover(pb.DiscoverRequest(capability="cook"))
            assert nothing.no_match and nothing.reason and not nothing.matches
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Discover(pb.DiscoverRequest())
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    run(work)


def test_each_is_refused_for_itself(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, agents_max=2) as its, connected(its.node) as stub:
            asked = [
                registration("good", "sort numbers"),
                registration("bad name\n", "sort numbers"),
                registration("none", ""),
                registration("also", "sort letters"),
            ]
            answer = await stub.Register(pb.RegisterRequest(registrations=asked))
            assert [each.error.code for each in answer.results] == [
                "", "BAD_TOPIC", "BAD_REQUEST", "",
            ]  # fmt: skip
            late = registration("late", "sort")
            answer = await stub.Register(pb.RegisterRequest(registrations=[late]))
            assert answer.results[0].error.code == "QUOTA_EXCEEDED"
            listed = await stub.List(pb.ListAgentsRequest())
            assert [each.registration.name for each in listed.agents] == ["also", "good"]

    run(work)


def test_filters_say_why_an_agent_is_not_offered(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as its, connected(its.node) as stub:
            old = registration("old", "blur images", version="1.4.0", labels={"ward": "3"})
            new = registration("new", "blur images", version="2.0.0")
            new.capabilities[0].takes["image"] = "f32|bf16[H<=4096, W<=4096]"
            tool = registration("tool", "blur images", kind="tool")
            await register(stub, old, new, tool)

            async def ask(**fields: Any) -> tuple[list[str], dict[str, str]]:
                found = await stub.Discover(pb.DiscoverRequest(text="blur images", **fields))
                others = {each.agent: each.reasons[-1].part for each in found.runners_up}
                return sorted(each.agent for each in found.matches), others

            assert await ask() == (["new", "old"], {})
            assert await ask(kind="tool") == (["tool"], {})
            assert await ask(version="^1.2") == (["old"], {"new": "version"})
            assert await ask(labels={"ward": "3"}) == (["old"], {"new": "labels"})
            assert await ask(exclude=["old"]) == (["new"], {})
            assert await ask(takes={"image": "bf16[1080, 1920, 3]"}) == (
                ["old"], {"new": "contract"},
            )  # fmt: skip
            assert await ask(takes={"image": "bf16[1080, 1920]"}) == (["new", "old"], {})
            matches, others = await ask(k=1)
            assert len(matches) == 1 and len(others) == 1
            twins = (await stub.Discover(pb.DiscoverRequest(text="blur images"))).matches
            assert twins[0].twin == twins[1].twin
            assert twins[0].confidence == twins[1].confidence, "any of them will do"

    run(work)


def test_the_same_registration_changes_nothing_and_a_new_instance_waits(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as its, connected(its.node) as stub:
            (first,) = await register(stub, registration("a", "sort", instance=ONE))
            (again,) = await register(stub, registration("a", "sort", instance=ONE))
            assert (first.generation, first.revision) == (again.generation, again.revision)
            (changed,) = await register(stub, registration("a", "sort more", instance=ONE))
            assert changed.generation > first.generation
            other = pb.RegisterRequest(registrations=[registration("a", "sort", instance=TWO)])
            refused = (await stub.Register(other)).results[0]
            assert refused.error.code == "CONFLICT" and refused.error.retryable
            async with connected(its.node) as dying:
                call = beats(dying)
                await beat(call, changed)
                # Its stream must be at the node before its connection goes.
                await until(lambda: its.registry.feed.of("default").live.get("a").beaten_ms)
                await beat(call, pb.Registered(name="x"))
                assert (await call.read()).lost[0].name == "x"
            await until(lambda: its.status("a") == Status.SUSPECT)
            (taken,) = (await stub.Register(other)).results
            assert taken.generation > changed.generation
            call = beats(stub)
            await beat(call, changed)
            assert (await call.read()).lost[0].generation == changed.generation

    run(work)


def test_who_is_silent_is_suspect_then_down_then_back(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, **FAST) as its, connected(its.node) as stub:
            asked = (registration("calm", "sort numbers"), registration("mute", "sort numbers"))
            calm, mute = await register(stub, *asked)
            assert (calm.beat_ms, calm.lease_ms) == (100, 600)
            call = beats(stub)
            await beat(call, mute)

            async def beating() -> None:
                while True:
                    await beat(call, calm, in_flight=2, waiting=1)
                    await asyncio.sleep(0.05)

            task = asyncio.create_task(beating())
            try:
                await until(lambda: its.status("mute") == Status.DOWN)
                found = await stub.Discover(pb.DiscoverRequest(text="sort numbers"))
                assert [each.agent for each in found.matches] == ["calm"]
                assert found.matches[0].state.in_flight == 2
                assert found.runners_up[0].reasons[-1].part == "health"
                every = await stub.Discover(
                    pb.DiscoverRequest(text="sort numbers", any_status=True)
                )
                assert {each.agent for each in every.matches} == {"calm", "mute"}
                await beat(call, mute)
                await until(lambda: its.status("mute") in (Status.UP, Status.SUSPECT))
                await beat(call, calm, draining=True)
            finally:
                task.cancel()

    run(work)


def test_who_is_down_for_long_is_forgotten(tmp_path: Path) -> None:
    async def work() -> None:
        flags = {**FAST, "agent_forget_s": 1}
        async with running(tmp_path, **flags) as its, connected(its.node) as stub:
            await register(stub, registration("mute", "sort numbers"))
            await until(lambda: its.status("mute") == 0)
            assert its.tables.get("agents", "default/mute") is None

    run(work)


def test_a_registration_outlives_its_node(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as its, connected(its.node) as stub:
            asked = registration("a", "sort numbers", extra={"card": b"\x00\xff"})
            (first,) = await register(stub, asked)
        async with running(tmp_path) as its, connected(its.node) as stub:
            (agent,) = (await stub.List(pb.ListAgentsRequest(name="a"))).agents
            assert agent.registration.extra["card"] == b"\x00\xff"
            assert agent.generation == first.generation
            assert agent.state.status == pb.AGENT_STATUS_SUSPECT
            found = await stub.Discover(pb.DiscoverRequest(text="sort numbers"))
            assert found.matches[0].reasons[-1].part == "health"
            call = beats(stub)
            await beat(call, first)
            await until(lambda: its.status("a") == Status.UP)

    run(work)


def test_deregistered_is_gone_and_a_zombie_takes_nothing_along(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as its, connected(its.node) as stub:
            (old,) = await register(stub, registration("a", "sort", instance=ONE))
            (new,) = await register(stub, registration("a", "sort all", instance=ONE))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Deregister(pb.DeregisterRequest(name="a", generation=old.generation))
            assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
            gone = await stub.Deregister(pb.DeregisterRequest(name="a", generation=new.generation))
            assert gone.existed
            assert not (await stub.Deregister(pb.DeregisterRequest(name="a"))).existed
            assert (await stub.Discover(pb.DiscoverRequest(text="sort"))).no_match
            (again,) = await register(stub, registration("a", "sort", instance=ONE))
            assert again.generation > new.generation, "also after it was removed"

    run(work)


def test_a_watcher_has_a_snapshot_then_every_change_and_can_go_on(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as its, connected(its.node) as stub:
            await register(stub, registration("a", "sort"), registration("b", "sort"))
            call = stub.Watch(pb.RegistryWatchRequest())
            names = {(await call.read()).put.registration.name for _ in range(2)}
            end = await call.read()
            assert names == {"a", "b"} and end.snapshot_end
            await register(stub, registration("c", "sort"))
            assert (await call.read()).put.registration.name == "c"
            await stub.Deregister(pb.DeregisterRequest(name="a"))
            assert (await call.read()).removed.registration.name == "a"
            call.cancel()

            since = stub.Watch(pb.RegistryWatchRequest(since=end.revision))
            first, second, last = [await since.read() for _ in range(3)]
            assert first.put.registration.name == "c"
            assert second.removed.registration.name == "a"
            assert last.snapshot_end and last.revision == second.revision
            since.cancel()

            late = stub.Watch(pb.RegistryWatchRequest(since=end.revision + 1_000))
            assert (await late.read()).restart
            assert {(await late.read()).put.registration.name for _ in range(2)} == {"b", "c"}
            late.cancel()

    run(work)


def test_a_watch_cut_off_anywhere_goes_on_with_nothing_left_out(tmp_path: Path) -> None:
    names = [f"a{number}" for number in range(20)]

    def apply(copy: dict[str, bytes], told: Any) -> dict[str, bytes]:
        change = told.WhichOneof("change")
        if change == "put":
            return copy | {told.put.registration.name: told.put.registration.extra["n"]}
        if change == "removed":
            return {name: n for name, n in copy.items() if name != told.removed.registration.name}
        return {} if change == "restart" else copy

    async def work() -> None:
        async with running(tmp_path) as its, connected(its.node) as stub:
            call = stub.Watch(pb.RegistryWatchRequest())
            assert (await call.read()).snapshot_end

            async def change(number: int) -> None:
                name = names[number % len(names)]
                if number % 7 == 6:
                    await stub.Deregister(pb.DeregisterRequest(name=name))
                else:
                    extra = {"n": b"%d" % number}
                    await register(stub, registration(name, "sort", instance=ONE, extra=extra))

            for wave in range(3):  # in one wave each changes three times, others between
                await asyncio.gather(*(change(60 * wave + each) for each in range(60)))
            await register(stub, registration("last", "sort"))
            copies: list[tuple[int, dict[str, bytes]]] = [(0, {})]
            while "last" not in copies[-1][1]:
                told = await call.read()
                copies.append((told.revision, apply(copies[-1][1], told)))
            call.cancel()
            for revision, copy in copies:
                again = stub.Watch(pb.RegistryWatchRequest(since=revision))
                if not revision:
                    copy = {}
                while not (told := await again.read()).snapshot_end:
                    copy = apply(copy, told)
                again.cancel()
                assert copy == copies[-1][1], f"from {revision} on"
            assert len({revision for revision, _ in copies}) > 4

    run(work)


def test_a_watch_over_a_restart_does_not_miss_who_was_removed_before_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as its, connected(its.node) as stub:
            await register(stub, registration("stays", "sort"), registration("goes", "sort"))
            call = stub.Watch(pb.RegistryWatchRequest())
            while not (told := await call.read()).snapshot_end:
                pass
            call.cancel()
            await stub.Deregister(pb.DeregisterRequest(name="goes"))
        async with running(tmp_path) as its, connected(its.node) as stub:
            again = stub.Watch(pb.RegistryWatchRequest(since=told.revision))
            assert (await again.read()).restart, "what was removed in another life is not known"
            assert (await again.read()).put.registration.name == "stays"
            assert (await again.read()).snapshot_end
            again.cancel()

    run(work)


def test_who_caches_is_told_of_revisions_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, **FAST) as its, connected(its.node) as stub:
            call = stub.Watch(pb.RegistryWatchRequest(revisions_only=True))
            begin = await call.read()
            (done,) = await register(stub, registration("a", "sort"))
            seen = await call.read()
            while seen.revision < done.revision:
                seen = await call.read()
            assert begin.revision < done.revision
            state = seen.state_version
            while seen.state_version == state:  # it never beats: it will be suspected
                seen = await call.read()
            call.cancel()

    run(work)


def test_a_process_of_this_host_that_ends_is_out_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as its, connected(its.node) as stub:
            asked = registration("near", "sort numbers"), registration("far", "sort numbers")
            near, _ = await register(stub, *asked)
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(BEATER), str(tmp_path / "sira.sock"), near.name,
                str(near.generation),
            )  # fmt: skip
            try:
                live = its.registry.feed.of("default").live
                await until(lambda: (vital := live.get("near")) and vital.in_flight == 7)
                process.kill()
                await until(lambda: its.status("near") == Status.DOWN)
                vital = live.get("near")
                assert vital is not None and vital.is_gone and "socket" in vital.reason
            finally:
                await process.wait()
            found = await stub.Discover(pb.DiscoverRequest(text="sort numbers"))
            assert [each.agent for each in found.matches] == ["far"]
            assert found.runners_up[0].agent == "near"

    run(work)


def test_outcomes_shift_the_ranking_are_kept_and_can_be_reset(tmp_path: Path) -> None:
    async def first_of(stub: Any) -> str:
        found = await stub.Discover(pb.DiscoverRequest(text="translate a letter"))
        return str(found.matches[0].agent)

    def said(ok: bool) -> pb.RateRequest:
        return pb.RateRequest(
            agent=worse, capability="translate-letters", query="translate a letter", ok=ok
        )

    worse = ""

    async def work() -> None:
        nonlocal worse
        async with running(tmp_path) as its, connected(its.node) as stub:
            one, two = (
                registration(name, "translate letters", labels={"x": name}) for name in ("p", "q")
            )
            await register(stub, one, two)
            worse = await first_of(stub)
            for _ in range(12):
                shift = (await stub.Rate(said(False))).shift
            assert -1.5 <= shift < 0, "inside bounds"
            assert await first_of(stub) != worse
            found = await stub.Discover(pb.DiscoverRequest(text="translate a letter"))
            reasons = {
                reason.part: reason
                for each in (*found.matches, *found.runners_up)
                if each.agent == worse
                for reason in each.reasons
            }
            assert reasons["feedback"].value == pytest.approx(shift)
        async with running(tmp_path) as its, connected(its.node) as stub:
            await register(stub, *(one, two))
            assert await first_of(stub) != worse, "a restart forgets nothing"
            reset = pb.RateRequest(agent=worse, capability="translate-letters", reset=True)
            assert (await stub.Rate(reset)).shift == 0
            assert await first_of(stub) == worse
            for wrong in (
                pb.RateRequest(agent="nobody", capability="x"),
                pb.RateRequest(agent=worse, capability="translate-letters", outcome="meh"),
            ):
                with pytest.raises(grpc.aio.AioRpcError):
                    await stub.Rate(wrong)

    run(work)


def test_what_calls_told_is_kept_and_what_may_not_be_called_is_left_out(tmp_path: Path) -> None:
    def told(agent: str, worked: int, failed: int, late: int = 0) -> pb.ReportRequest:
        each = pb.Outcomes(
            agent=agent, capability="sort-letters", worked=worked, failed=failed, late=late
        )
        return pb.ReportRequest(outcomes=[each, pb.Outcomes(agent="nobody", failed=9)])

    async def shift_of(stub: Any, agent: str) -> float:
        found = await stub.Discover(pb.DiscoverRequest(text="sort letters"))
        return sum(
            reason.value
            for each in (*found.matches, *found.runners_up)
            if each.agent == agent
            for reason in each.reasons
            if reason.part == "feedback"
        )

    async def work() -> None:
        async with running(tmp_path) as its, connected(its.node) as stub:
            await register(stub, *(registration(name, "sort letters") for name in ("bad", "good")))
            await stub.Report(told("good", 900, 1))
            await stub.Report(told("bad", 10, 50))
            await until(lambda: len(its.tables.scan("feedback")) == 2)
            bad = await shift_of(stub, "bad")
            assert -0.2 <= bad < 0 == await shift_of(stub, "good")
            revision = its.tables.revision
            for _ in range(20):
                await stub.Report(told("good", 900, 0))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                many = [pb.Outcomes(agent="good", capability="sort-letters")] * 257
                await stub.Report(pb.ReportRequest(outcomes=many))
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            await stub.Report(told("bad", 0, 0, 7))  # not written yet when the node ends
        async with running(tmp_path) as its, connected(its.node) as stub:
            assert its.tables.get("feedback", "default/good/sort-letters").changed <= revision
            assert its.tables.get("feedback", "default/bad/sort-letters").changed > revision
            await until(lambda: its.registry.feed.of("default").search._records)
            assert await shift_of(stub, "bad") < bad
            assert len(its.tables.scan("feedback")) == 2, "nobody has none"
            await stub.Rate(pb.RateRequest(agent="bad", capability="sort-letters", reset=True))
            assert await shift_of(stub, "bad") == 0

    run(work)


def test_among_many_the_index_names_what_shares_no_word(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as its, connected(its.node) as stub:
            many = [registration(f"filler-{i}", f"sort crates of kind {i}") for i in range(400)]
            await register(stub, *many, registration("odd", "resynchronising clockworks"))
            found = await stub.Discover(pb.DiscoverRequest(text="resynchronize clockwork"))
            assert found.matches[0].agent == "odd"
            assert len(its.registry.feed.of("default").directory) == 401

    run(work)


RULES = """
format = "sira-policy 1"
default = "deny"
[[rule]]
name = "methods"
effect = "allow"
principals = "*"
actions = "call"
methods = "*"
[[rule]]
name = "open-agents"
effect = "allow"
principals = "*"
actions = ["publish", "subscribe"]
topics = "agents.open.>"
"""


def test_what_one_may_not_call_one_is_not_told_of(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)

    def row(name: str) -> tuple[str, str, bytes]:
        agent = pb.Agent(generation=1, principal="sira://local/default/agent/other")
        agent.registration.CopyFrom(checked(registration(name, "sort letters")))
        return "agents", f"default/{name}", agent.SerializeToString()

    async def work() -> None:
        flags = {"policy": str(tmp_path / "rules.toml")}
        async with running(tmp_path, **flags) as its, connected(its.node) as stub:
            watch = stub.Watch(pb.RegistryWatchRequest())
            assert (await watch.read()).snapshot_end
            await its.tables.transact(puts=[row("secret"), row("open")])
            await until(lambda: len(its.registry.feed.of("default").directory) == 2)
            found = await stub.Discover(pb.DiscoverRequest(text="sort letters", any_status=True))
            told = {each.agent for each in (*found.matches, *found.runners_up)}
            listed = (await stub.List(pb.ListAgentsRequest())).agents
            assert told == {each.registration.name for each in listed} == {"open"}
            assert (await watch.read()).put.registration.name == "open"
            await its.tables.transact(
                deletes=[("agents", "default/secret"), ("agents", "default/open")]
            )
            gone = await watch.read()
            assert gone.removed.registration.name == "open"
            watch.cancel()
            # Nor may one claim a topic that one may not serve, or take what is another's.
            answer = await stub.Register(
                pb.RegisterRequest(
                    registrations=[registration(name, "sort") for name in ("secret", "open")]
                )
            )
            assert [each.error.code for each in answer.results] == ["DENIED", ""]
            await its.tables.transact(puts=[row("other.s")])
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Deregister(pb.DeregisterRequest(name="other.s"))
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED

    run(work)


def test_a_local_model_finds_what_shares_no_word_and_takes_its_own_vectors_alone(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    make_model(folder)

    def vector(*values: float, embedder: str) -> pb.CapabilityVector:
        made = np.array(values, "<f2")
        return pb.CapabilityVector(embedder=embedder, dims=len(values), values=made.tobytes())

    async def work() -> None:
        async with running(tmp_path, embedder_dir=str(folder)) as its, connected(its.node) as stub:
            cat = registration("c-1", "cat cat cat")
            cat.capabilities[0].name = "x"
            own = registration("o-1", "tree tree tree")
            own.capabilities[0].name = "y"
            name = its.registry.feed.of("default").search.embedder
            own.capabilities[0].vectors.append(vector(0, 1, 0, embedder=name))
            bad = registration("b-1", "no direction")
            bad.capabilities[0].vectors.append(vector(0, 0, 0, embedder=name))
            refused = await stub.Register(pb.RegisterRequest(registrations=[bad]))
            assert refused.results[0].error.code == "BAD_REQUEST"
            await register(stub, cat, own)
            found = await stub.Discover(pb.DiscoverRequest(vector=vector(1, 0, 0, embedder=name)))
            assert found.embedder == name and name.startswith("onnx-model/")
            everyone = (*found.matches, *found.runners_up)
            assert everyone[0].agent == "c-1"
            found = await stub.Discover(pb.DiscoverRequest(vector=vector(0, 1, 0, embedder=name)))
            assert (*found.matches, *found.runners_up)[0].agent == "o-1", "by the vector it brought"
            for wrong in (
                vector(1, 0, 0, embedder="another/1"),
                vector(1, 0, embedder=name),
                vector(0, 0, 0, embedder=name),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.Discover(pb.DiscoverRequest(vector=wrong))
                assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    run(work)
