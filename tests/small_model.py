"""A model of four words in ONNX form, for tests of what runs one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

WORDS = ["[UNK]", "cat", "dog", "tree"]
TABLE = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0]], np.float32)


def make_model(folder: Path) -> Path:
    """Make a model of four words in a folder, and return it: a token's vector is its row of TABLE.

    Skips the test where the extra is not installed.
    """
    if find_spec("onnxruntime") is None:  # not imported here: our code has to tell it something
        pytest.skip("onnxruntime is not installed")
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
    onnx.save(model, folder / "model.onnx")
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
