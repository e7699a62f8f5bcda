"""A registration is checked and filled before anything of it is kept."""

from __future__ import annotations

import pytest

from sira import _native
from sira.kernel.errors import BadRequest, BadTopic, Conflict, MessageTooLarge, SiraError
from sira.kernel.slugs import slug
from sira.registry.records import checked, fit_of, may_take_over
from sira.v1 import registry_pb2

Registration, Capability = registry_pb2.Registration, registry_pb2.Capability


def one(**fields: object) -> registry_pb2.Registration:
    return Registration(name="seg-1", capabilities=[Capability(text="segment organs", **fields)])  # type: ignore[arg-type]


def test_what_is_left_out_is_filled() -> None:
    asked = Registration(
        name="ward.seg-1",
        capabilities=[
            Capability(text="Segment organs in CT images!"),
            Capability(name="count", text="zählt Zellen", topic="lab.count"),
            Capability(text="中文"),
        ],
    )
    made = checked(asked)
    assert made.kind == "agent"
    assert [(each.name, each.topic) for each in made.capabilities] == [
        ("segment-organs-in-ct-images", "agents.ward.seg-1.segment-organs-in-ct-images"),
        ("count", "lab.count"),
        ("capability-3", "agents.ward.seg-1.capability-3"),
    ]
    assert asked.kind == "", "what was given is left alone"
    assert checked(made) == made


def test_what_rides_along_comes_back_unchanged() -> None:
    asked = one()
    asked.extra["card"] = bytes(range(256))
    asked.digest, asked.signature = b"\x00\xff", b"\x01"
    asked.requires.append("gpu")
    made = checked(asked)
    assert (made.extra, made.digest, made.signature) == (asked.extra, b"\x00\xff", b"\x01")
    assert list(made.requires) == ["gpu"]


@pytest.mark.parametrize(
    ("asked", "error", "field"),
    [
        (Registration(), BadRequest, "name"),
        (Registration(name="a b\n"), BadTopic, ""),
        (Registration(name="a.*"), BadTopic, ""),
        (Registration(name="x" * 200), BadRequest, "name"),
        (Registration(name="a", kind="Agent"), BadRequest, "kind"),
        (Registration(name="a", version="1.2"), BadRequest, "version"),
        (Registration(name="a", instance="7"), BadRequest, "instance"),
        (Registration(name="a", labels={"w": "x" * 300}), BadRequest, "labels"),
        (Registration(name="a", capabilities=[Capability(text="x")] * 65), BadRequest,
         "capabilities"),
        (Registration(name="a", capabilities=[Capability(text="x")] * 2), BadRequest,
         "capabilities"),
        (Registration(name="a", capabilities=[Capability(name="x")]), BadRequest, "text"),
        (one(name="a.b"), BadRequest, "name"),
        (one(takes={"x": "f32[N"}), SiraError, ""),
        (one(effects="maybe"), BadRequest, "effects"),
        (one(schema_in="{"), BadRequest, "schema"),
        (one(schema_in="[" * 100_000), BadRequest, "schema"),
        (one(schema_out="3"), BadRequest, "schema"),
        (one(topic="sira.load"), BadRequest, "topic"),
        (one(topic="_reply.00"), BadRequest, "topic"),
        (one(topic="job.x"), BadRequest, "topic"),
        (one(topic="lab.*"), BadTopic, ""),
        (one(vectors=[registry_pb2.CapabilityVector(embedder="e", dims=2, values=b"123")]),
         BadRequest, "vectors"),
        (one(vectors=[registry_pb2.CapabilityVector(embedder="e", dims=2, values=bytes(4))]),
         BadRequest, "vectors"),
        (one(vectors=[registry_pb2.CapabilityVector(embedder="e", dims=1, values=b"\x00\x7e")]),
         BadRequest, "vectors"),
        (one(vectors=[registry_pb2.CapabilityVector(dims=1, values=b"\x00\x3c")]),
         BadRequest, "vectors"),
        (one(examples=["x" * 8_000] * 9), MessageTooLarge, "registrations"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(
    asked: registry_pb2.Registration, error: type[SiraError], field: str
) -> None:
    with pytest.raises(error) as caught:
        checked(asked)
    assert caught.value.details.get("field", "") in (field, "topic", "contract") or not field


def test_contracts_are_compiled_and_say_what_does_not_fit() -> None:
    fit = fit_of(Capability(takes={"image": "f32|bf16[H<=4096, W<=4096]"}))
    assert fit.takes is not None and fit.gives is None
    assert fit.takes.unify(_native.Contract({"image": "f32[512, 512]"})) is None
    difference = fit.takes.unify(_native.Contract({"image": "bf16[1080, 1920, 3]"}))
    assert difference is not None and "image" in difference


def test_a_name_is_taken_over_by_its_own_next_instance_alone() -> None:
    old = registry_pb2.Agent(
        registration=Registration(name="a", instance="0" * 32), principal="sira://c/t/agent/a"
    )
    again, other = (Registration(name="a", instance=digit * 32) for digit in "01")
    mine, another = old.principal, "sira://c/t/agent/b"
    may_take_over(old, again, principal=mine, is_alive=True)
    may_take_over(old, other, principal=mine, is_alive=False)
    with pytest.raises(Conflict) as alive:
        may_take_over(old, other, principal=mine, is_alive=True)
    assert alive.value.retryable
    with pytest.raises(Conflict) as taken:
        may_take_over(old, again, principal=another, is_alive=False)
    assert not taken.value.retryable


@pytest.mark.parametrize(
    ("text", "made"),
    [("Find the lungs", "find-the-lungs"), ("  éÀ ", "ea"), ("!!", ""), ("a" * 90, "a" * 48)],
)
def test_a_slug_is_a_token(text: str, made: str) -> None:
    assert slug(text) == made
