"""A block of very many vectors is read as bytes, and answers as an exact look at all does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sira import _native
from sira.registry.index import exact
from sira.registry.index.exact import Block
from sira.registry.index.interface import Point

DIMS = 40


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@given(st.integers(1, 130), st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_products_of_codes_are_numpys(dims: int, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, (rows + 2, dims)).astype(np.int8)
    query = rng.integers(-127, 128, dims).astype(np.int8)
    wanted = codes[:rows].astype(np.int64) @ query.astype(np.int64)
    assert _native.code_products(codes, rows, query).tolist() == wanted.tolist()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=70))
def test_codes_times_their_scale_are_the_vector_to_half_a_step(values: list[float]) -> None:
    vector, codes = np.array(values, np.float32), np.full(len(values), 99, np.int8)
    scale = _native.encode_vector(vector, codes)
    assert np.allclose(codes * scale, vector, atol=max(scale * 0.501, 1e-30), rtol=0)
    assert abs(codes.astype(int)).max() in (0, 127)


def test_arrays_that_do_not_fit_are_refused() -> None:
    codes, query = np.zeros((3, 8), np.int8), np.zeros(8, np.int8)
    for wrong in ((codes, 4, query), (codes, -1, query), (codes, 1, query[:7]),
                  (codes[:, ::2], 1, query[:4]), (codes[0], 1, query)):  # fmt: skip
        with pytest.raises(ValueError, match="codes"):
            _native.code_products(*wrong)
    with pytest.raises(ValueError, match="as many"):
        _native.encode_vector(np.zeros(7, np.float32), query)
    for never in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            _native.encode_vector(np.full(8, never, np.float32), query)


def test_many_rows_that_came_moved_and_went_are_found_as_by_a_look_at_all() -> None:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((30, DIMS))
    count = 3 * exact._CODED_MIN
    rows = _unit(centres[rng.integers(0, 30, count)] + 0.6 * rng.standard_normal((count, DIMS)))
    block, held = Block(DIMS), dict[int, np.ndarray]()
    for i, row in enumerate(rows):
        block.put(Point(i + 1, row))
        held[i + 1] = row
    for id_ in range(1, count, 3):
        block.remove(id_)
        del held[id_]
    for id_ in range(2, count, 30):
        held[id_] = _unit(rng.standard_normal(DIMS))
        block.put(Point(id_, held[id_]))
    assert len(block) == len(held) > exact._CODED_MIN
    ids, matrix = np.array(list(held)), np.stack(list(held.values()))
    for query in _unit(centres[:20] + 0.8 * rng.standard_normal((20, DIMS))):
        scores = matrix @ query
        best = ids[np.argsort(-scores)[:10]].tolist()
        hits = block.nearest(query, 10)
        assert [hit.id for hit in hits] == best
        assert [hit.score for hit in hits] == pytest.approx(sorted(scores, reverse=True)[:10])


def test_of_equal_rows_the_smallest_ids_are_answered_however_many_there_are() -> None:
    block, row = Block(DIMS), _unit(np.arange(1, DIMS + 1, dtype=np.float32))
    for id_ in range(exact._CODED_MIN + 500, 0, -1):
        block.put(Point(id_, row))
    assert [hit.id for hit in block.nearest(row, 5)] == [1, 2, 3, 4, 5]
