"""A local ONNX model: pooled over a text's own tokens, and refused clearly where it cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sira.kernel.errors import BadSetting, Unsupported
from sira.registry.embed.onnx_model import OnnxEmbedder

WORDS = ["[UNK]", "cat", "dog", "tree"]
TABLE = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0]], np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a model of four words: a token's vector is its row of TABLE."""
    pytest.importorskip("onnxruntime")
    onnx, tokenizers = pytest.importorskip("onnx"), pytest.importorskip("tokenizers")
    helper, kinds = onnx.helper, onnx.TensorProto
    given = [
        helper.make_tensor_value_info(name, kinds.INT64, ["b", "t"])
        for name in ("input_ids", "attention_mask")
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"], axis=0),
        helper.make_node("Unsqueeze", ["attention_mask", "last"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["real"], to=kinds.FLOAT),
        # What is padded gets a vector far off: it must not be pooled.
        helper.make_node("Sub", ["nine", "real"], ["off"]),
        helper.make_node("Add", ["rows", "off"], ["moved"]),
        helper.make_node("Sub", ["moved", "eight"], ["out"]),
    ]
    constants = {
        "table": TABLE, "last": np.array([2]), "nine": np.float32(9), "eight": np.float32(8),
    }  # fmt: skip
    held = [
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    ]
    out = [helper.make_tensor_value_info("out", kinds.FLOAT, ["b", "t", 3])]
    graph = helper.make_graph(nodes, "words", given, out, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


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
