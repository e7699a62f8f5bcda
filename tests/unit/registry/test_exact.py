"""A block of very many vectors is read as bits, and answers as an exact look at all does."""

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


def _coded(rows: np.ndarray) -> np.ndarray:
    codes = np.zeros((len(rows), _native.code_words(rows.shape[1])), np.uint64)
    for row, code in zip(rows, codes, strict=True):
        _native.code_vector(row, code)
    return codes


@given(st.integers(1, 130), st.integers(1, 20), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_all_rows_are_likely_where_so_many_are_wanted_and_products_are_numpys(
    dims: int, rows: int, rows_a_part: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors, query = rng.integers(-9, 10, (rows, dims)).astype(np.float32), np.ones(dims, "f4")
    codes, starts = _coded(vectors), range(0, rows, rows_a_part)
    found, products = _native.likely_rows(
        [vectors[at : at + rows_a_part].copy() for at in starts],
        [codes[at : at + rows_a_part].copy() for at in starts],
        rows, rows_a_part, query, rows,
    )  # fmt: skip
    assert found.tolist() == list(range(rows))
    assert products.tolist() == (vectors @ query).tolist()


@pytest.mark.parametrize("dims", [64, 384, 512, 5_000])
def test_of_a_code_the_own_vector_is_nearest_and_its_opposite_is_farthest(dims: int) -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((20, dims)).astype(np.float32)
    rows[19] = -rows[7]
    for likely in range(1, 20):
        found, _ = _native.likely_rows([rows], [_coded(rows)], 20, 20, rows[7], likely)
        assert 7 in found.tolist() and 19 not in found.tolist()
        assert len(found) >= likely


def test_arrays_that_do_not_fit_are_refused() -> None:
    rows, codes, query = np.zeros((3, 8), "f4"), np.zeros((3, 1), np.uint64), np.zeros(8, "f4")
    assert len(_native.likely_rows([rows], [codes], 3, 3, query, 1)[0]) == 3, "all are equal"
    for wrong in (([rows], [codes], 4, 4, query, 1), ([rows], [codes], 3, 2, query, 1),
                  ([rows], [], 3, 3, query, 1), ([rows], [codes], 0, 3, query, 1),
                  ([rows], [codes], 3, 0, query, 1), ([rows], [codes], 3, 3, query, 0),
                  ([rows], [codes], 3, 3, query[:7], 1), ([rows], [codes], 3, 3, query[:0], 1),
                  ([rows], [np.zeros((3, 2), np.uint64)], 3, 3, query, 1)):  # fmt: skip
        with pytest.raises(ValueError, match=r"part|rows|dims"):
            _native.likely_rows(*wrong)
    for strange in (([rows[:, ::2]], [codes], 3, 3, query[:4], 1),
                    ([rows], [codes.astype(np.int64)], 3, 3, query, 1),
                    ([rows[0]], [codes], 3, 3, query, 1),
                    ([None], [codes], 3, 3, query, 1)):  # fmt: skip
        with pytest.raises(TypeError):
            _native.likely_rows(*strange)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="words"):
        _native.code_vector(query, np.zeros(2, np.uint64))
    with pytest.raises(ValueError, match="dims"):
        _native.code_words(0)
    for never in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            _native.code_vector(np.full(8, never, np.float32), codes[0])


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
