"""An embedder that runs a model of its own: a directory with `model.onnx` and `tokenizer.json`.

Needs the extra `onnx` (onnxruntime, tokenizers). The directory is read, nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sira.kernel.errors import BadSetting, Unsupported
from sira.registry.embed.interface import F32, unit_rows

MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
TOKENS_MAX = 256  # of a text; longer ones are cut. Sentence models are trained on less
_BATCH = 32  # texts run at once: more only pads more
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_READ_BYTES = 1 << 20


class OnnxEmbedder:
    """Mean of the last layer's token vectors, as sentence-transformers pools (Reimers, 2019).

    The model takes `input_ids` and `attention_mask`, i64[texts, tokens], perhaps `token_type_ids`,
    and gives f32[texts, tokens, dims] first (pooled here) or f32[texts, dims]. Its version is the
    digest of both files, so that another model is another embedder, whatever the folder's name is.
    One thread, for the node's loop has the others.
    """

    def __init__(self, folder: Path | str) -> None:
        """Load the model; some 0.1 s for 90 MB.

        Raises:
            Unsupported: onnxruntime or tokenizers are not installed.
            BadSetting: a file is missing or cannot be read, or the model takes something else.
        """
        model, tokenizer = (_file(Path(folder), name) for name in (MODEL, TOKENIZER))
        onnxruntime, tokenizers = _libraries()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # both libraries raise classes of their own, and bare Exception
            raise _unusable(folder, str(error)) from error
        self._tokenizer.enable_truncation(TOKENS_MAX)
        self._tokenizer.no_padding()
        self._inputs = {each.name for each in self._session.get_inputs()}
        if not {"input_ids", "attention_mask"} <= self._inputs <= _INPUTS:
            raise _unusable(folder, f"the model takes {', '.join(sorted(self._inputs))}")
        self.dims = len(self._run(["a"])[0])
        self.name = f"onnx-{Path(folder).name}/{_digest(model, tokenizer)}"

    def embed(self, texts: Sequence[str]) -> F32:
        """Return f32[len(texts), dims], each row of length 1."""
        made = np.zeros((len(texts), self.dims), np.float32)
        # Texts of like length together: a batch is as long as its longest one.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            made[chosen] = self._run([texts[i] for i in chosen])
        return unit_rows(made)

    def _run(self, texts: list[str]) -> F32:
        encoded = self._tokenizer.encode_batch(texts)
        longest = max(1, *(len(each.ids) for each in encoded))
        tokens = np.zeros((len(texts), longest), np.int64)
        mask = np.zeros_like(tokens)
        for i, each in enumerate(encoded):
            tokens[i, : len(each.ids)] = each.ids
            mask[i, : len(each.ids)] = 1
        given = {"input_ids": tokens, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            given["token_type_ids"] = np.zeros_like(tokens)
        output = self._session.run(None, given)[0]
        if output.ndim == 2:
            return np.asarray(output, np.float32)
        weights = mask[:, :, None].astype(np.float32)
        total = np.maximum(weights.sum(axis=1), 1)
        return np.asarray((output * weights).sum(axis=1) / total, np.float32)


def _libraries() -> tuple[Any, Any]:
    # From 1.31 on it reports to its maker, and leaves a file in the temporary folder, unless told
    # before it is loaded. A node says nothing to anybody outside unless its operator wants it to.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
        import tokenizers
    except ImportError as error:
        raise Unsupported(
            f"an ONNX model needs {error.name}, which is not installed",
            help="pip install 'sira-kernel[onnx]'",
            details={"missing": str(error.name)},
        ) from error
    return onnxruntime, tokenizers


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise BadSetting(
            f"{folder} has no {name}",
            help=f"a model directory holds {MODEL} and {TOKENIZER}",
            details={"field": "embedder", "missing": name},
        )
    return folder / name


def _unusable(folder: Path | str, why: str) -> BadSetting:
    return BadSetting(f"the model in {folder} cannot be used: {why}", details={"field": "embedder"})


def _digest(*paths: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(_READ_BYTES):
                digest.update(piece)
    return digest.hexdigest()
