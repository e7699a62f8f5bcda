"""A local ONNX model: pooled over a text's own tokens, and refused clearly where it cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sira.kernel.errors import BadSetting, Unsupported
from sira.registry.embed.onnx_model import OnnxEmbedder
from tests.small_model import make_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make the model."""
    return make_model(tmp_path)


def test_a_text_is_the_mean_of_its_own_tokens_whatever_stands_beside_it(folder: Path) -> None:
    embedder = OnnxEmbedder(folder)
    made = embedder.embed(["cat", "cat dog cat dog", "dog dog dog dog dog dog dog cat"])
    assert embedder.dims == 3 and made.dtype == np.float32
    assert np.allclose(made[0], [1, 0, 0], atol=1e-5)
    assert np.allclose(made[1], [0.5**0.5, 0.5**0.5, 0], atol=1e-5)
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert np.allclose(made[2], embedder.embed(["dog dog dog dog dog dog dog cat"])[0], atol=1e-5)
    assert embedder.embed([]).shape == (0, 3)


def test_another_model_in_the_same_folder_has_another_name(folder: Path) -> None:
    before = OnnxEmbedder(folder).name
    assert OnnxEmbedder(folder).name == before
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text + "\n")
    assert OnnxEmbedder(folder).name != before


@pytest.mark.parametrize("missing", ["model.onnx", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    for name in {"model.onnx", "tokenizer.json"} - {missing}:
        (tmp_path / name).write_text("{}")
    with pytest.raises(BadSetting, match=missing):
        OnnxEmbedder(tmp_path)


def test_a_file_that_is_no_model_is_refused(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BadSetting, match="cannot be used"):
        OnnxEmbedder(folder)


@pytest.mark.parametrize("library", ["onnxruntime", "tokenizers"])
def test_a_missing_library_is_refused_with_the_way_out(
    tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(Unsupported, match=library) as caught:
        OnnxEmbedder(tmp_path)
    assert "sira-kernel[onnx]" in caught.value.help
