"""Tensors made from text, described, and saved."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sira.cli.body import read_body
from sira.cli.output import UsageError, printable
from sira.cli.parser import build
from sira.cli.tensors import (
    DTYPES,
    describe,
    describe_line,
    dtype_name,
    load_npz,
    make_tensor,
    save_npz,
)

RANDOM = np.random.default_rng


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("fill", ["random", "range", "1"])
def test_every_dtype_can_be_made_described_and_saved(name: str, fill: str, tmp_path: Path) -> None:
    key, tensor = make_tensor(f"x={name}[2,3]:{fill}", generator=RANDOM(7))
    assert (key, tensor.shape, tensor.dtype) == ("x", (2, 3), DTYPES[name])
    found = describe(tensor)
    assert found["dtype"] == name and found["shape"] == [2, 3]
    assert found["nan_count"] == 0 and found["mean"] is not None
    save_npz(tmp_path / "x.npz", {"x": tensor})
    back = load_npz(tmp_path / "x.npz")
    assert list(back) == ["x"] and back["x"].dtype == tensor.dtype
    assert np.array_equal(back["x"], tensor)


def test_the_dtypes_are_those_of_the_wire() -> None:
    assert len(DTYPES) == 21 and dtype_name(np.dtype(">f4")) == "f32"


@pytest.mark.parametrize(
    "spec",
    ["x", "x=f32", "=f32[2]", "x=f31[2]", "x=f32[a]", "x=f32[-1]", "x=f32[2]:often",
     "x=f32[99999999999]", "x=u8[2]:"],
)  # fmt: skip
def test_what_is_no_tensor_is_refused(spec: str) -> None:
    with pytest.raises(UsageError):
        make_tensor(spec, generator=RANDOM(0))


@pytest.mark.parametrize(("dims", "shape"), [("", ()), ("0", (0,)), ("2,0,3", (2, 0, 3))])
def test_scalars_and_empty_tensors(dims: str, shape: tuple[int, ...]) -> None:
    _, tensor = make_tensor(f"x=bf16[{dims}]:1", generator=RANDOM(0))
    assert tensor.shape == shape
    found = describe(tensor)
    assert found["shape"] == list(shape)
    assert (found["mean"] is None) == (tensor.size == 0)


def test_statistics_leave_nan_out_and_count_them() -> None:
    found = describe(np.array([1, math.nan, 3, math.inf], np.float16))
    assert (found["min"], found["max"], found["mean"]) == (1, math.inf, math.inf)
    assert found["nan_count"] == 1
    assert describe(np.full(3, math.nan))["mean"] is None
    assert describe(np.array([1j, math.nan]))["nan_count"] == 1


def test_statistics_of_a_large_tensor_are_those_of_all_of_it() -> None:
    array = np.arange((1 << 20) + 5, dtype=np.int32)
    found = describe(array)
    assert (found["min"], found["max"]) == (0, array.size - 1)
    assert found["mean"] == pytest.approx(array.mean())


def test_integers_stay_whole_beyond_doubles() -> None:
    top = 2**63 - 1
    assert describe(np.array([top], np.int64))["max"] == top


def test_a_tensor_is_one_line() -> None:
    line = describe_line("x", describe(np.array([[1.0, math.nan]], np.float32)))
    assert line == "x: f32[1,2]  min 1 mean 1 max 1  NaN 1"


def body(*words: str) -> tuple[object, str]:
    return read_body(build().parse_args(["pub", "a", *words]))


def test_text_and_json_are_told_apart() -> None:
    assert body("hello") == ("hello", "text/plain; charset=utf-8")
    assert body('{"a": 1}') == ('{"a": 1}', "application/json")
    assert body("{a") == ("{a", "text/plain; charset=utf-8")
    assert body("x", "--content-type", "text/x") == ("x", "text/x")


def test_files_become_what_their_names_say(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.arange(3))
    np.savez(tmp_path / "z.npz", a=np.ones(2), b=np.zeros(1))
    (tmp_path / "j.json").write_text("[1]")
    (tmp_path / "raw.bin").write_bytes(b"\xff\x00")
    found, _ = body(f"@{tmp_path}/y.npy")
    assert isinstance(found, dict) and np.array_equal(found["y"], np.arange(3))
    found, _ = body(f"@{tmp_path}/z.npz", "--tensor", "c=u8[1]")
    assert isinstance(found, dict) and set(found) == {"a", "b", "c"}
    assert body(f"@{tmp_path}/j.json") == ("[1]", "application/json")
    assert body(f"@{tmp_path}/raw.bin") == (b"\xff\x00", "application/octet-stream")


def test_a_pickle_in_a_file_is_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"p\.npy"):
        body(f"@{tmp_path}/p.npy")


@pytest.mark.parametrize("words", [(), ("text", "--tensor", "x=f32[1]"), ("@/no/such/file",)])
def test_bodies_that_make_no_sense_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        body(*words)


def test_text_of_strangers_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc") == "a\N{REPLACEMENT CHARACTER}[2Jb\nc"
