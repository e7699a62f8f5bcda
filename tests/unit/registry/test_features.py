"""Features and the hashed embedder: the same everywhere, and what they say of a text."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sira.kernel.errors import BadRequest, BadSetting
from sira.registry.embed import features
from sira.registry.embed.hashed import HashedEmbedder
from sira.registry.embed.interface import require_same

TEXTS = ("Book a table for two", "getHTTPStatus of 3 hosts", "Straßenkarte für Zürich", "你好 世界")

DIGEST = """
import hashlib
from sira.registry.embed.hashed import HashedEmbedder
made = HashedEmbedder(256).embed(%r)
print(hashlib.sha256(made.astype('<f4').round(4).tobytes()).hexdigest())
"""


def test_golden_places_hold_while_the_version_does() -> None:
    """A row that was embedded by an older release is compared with a query of this one."""
    assert features.VERSION == 1
    assert features.features("Book a table")[0].tolist() == GOLDEN_PLACES
    dense = HashedEmbedder(64).embed(["Book a table"])[0]
    assert np.flatnonzero(dense).tolist() == GOLDEN_DIMS
    assert (np.sign(dense[GOLDEN_DIMS]) == GOLDEN_SIGNS).all()


def test_another_process_with_another_hash_seed_makes_the_same_vectors() -> None:
    here = hashlib.sha256(HashedEmbedder(256).embed(TEXTS).astype("<f4").round(4).tobytes())
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", DIGEST % (TEXTS,)], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert found.stdout.strip() == here.hexdigest()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("getHTTPStatus", ["get", "http", "status"]),
        ("qr_code-maker2", ["qr", "code", "maker", "2"]),
        ("Ｆｕｌｌ width, ﬁne", ["full", "width", "fine"]),  # noqa: RUF001
        ("你好 世界", ["你好", "世界"]),
        ("?!", []),
    ],
)
def test_words_are_found_in_names_and_in_any_script(text: str, found: list[str]) -> None:
    assert features.words(text) == found


def test_endings_of_one_word_meet_in_its_stem() -> None:
    assert len({features.stem(w) for w in ("booking", "booked", "books", "booker")}) == 1
    assert features.stem("glass") == "glass" and features.stem("bus") == "bus"


def test_a_text_without_words_is_a_row_of_zeros_and_every_other_has_length_one() -> None:
    made = HashedEmbedder().embed(["", "...", *TEXTS])
    assert made.shape == (6, 2_048) and made.dtype == np.float32
    assert np.allclose(np.linalg.norm(made, axis=1), [0, 0, 1, 1, 1, 1], atol=1e-5)


@given(st.lists(st.text(max_size=200), min_size=1, max_size=5))
def test_any_text_is_embedded_alike_alone_and_among_others(texts: list[str]) -> None:
    embedder = HashedEmbedder(128)
    together = embedder.embed(texts)
    assert np.isfinite(together).all()
    for i, text in enumerate(texts):
        assert np.array_equal(embedder.embed([text])[0], together[i])


@given(st.text(max_size=300))
def test_sparse_rows_ascend_and_stay_in_their_places(text: str) -> None:
    places, values = features.features(text)
    assert (np.diff(places) > 0).all() and (values >= 1).all()
    assert not len(places) or (places[0] >= 0 and places[-1] < features.PLACES)


def test_what_is_alike_is_nearer_than_what_is_not() -> None:
    made = HashedEmbedder().embed(
        ["book a table in a restaurant", "restaurant tables, booked for you", "weather in Oslo"]
    )
    assert made[0] @ made[1] > 0.3 > made[0] @ made[2]


def test_a_text_of_any_length_is_cut_and_taken() -> None:
    word = "x" * 100_000
    assert features.words(word) == ["x" * 32]
    assert len(features.words("a b " * 100_000)) <= features.CHARS_MAX


@pytest.mark.parametrize("dims", [0, 63, 100, 16_384])
def test_dims_that_are_no_power_of_two_in_range_are_refused(dims: int) -> None:
    with pytest.raises(BadSetting):
        HashedEmbedder(dims)


@pytest.mark.parametrize(("name", "dims"), [("hashed-64/0", 64), ("hashed-64/1", 63), ("", 64)])
def test_vectors_of_two_embedders_are_not_compared(name: str, dims: int) -> None:
    embedder = HashedEmbedder(64)
    require_same(embedder, name=embedder.name, dims=64)
    with pytest.raises(BadRequest) as caught:
        require_same(embedder, name=name, dims=dims)
    assert caught.value.details["embedder_in_use"] == "hashed-64/1"


# fmt: off
GOLDEN_PLACES = [
    21628, 27283, 59964, 75504, 76508, 91341, 96903, 102214, 107313, 112623, 116651, 123208,
    137990, 159226, 160462, 161568, 173108, 175104, 183805, 191006, 213772, 220243, 224662,
    227656, 236215, 246723,
]
GOLDEN_DIMS = [
    3, 5, 6, 7, 10, 13, 15, 16, 17, 18, 24, 25, 31, 32, 33, 35, 40, 41, 45, 55, 56, 57, 59, 62,
]
GOLDEN_SIGNS = [
    -1, -1, -1, 1, -1, -1, 1, -1, 1, 1, -1, 1, 1, 1, 1, -1, -1, 1, 1, -1, 1, 1, 1, -1,
]
# fmt: on
