"""BERT's forward pass in NumPy, float64, written from the paper's formulas: a second opinion for the tests.

Source: Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers". Axes: b rows, s tokens, h heads,
d a head's width.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ERF = np.vectorize(math.erf)


class NumpyBert:
    """A sequence classifier read from a folder with config.json and model.safetensors."""

    def __init__(self, folder: Path) -> None:
        """Reads the folder."""
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
        self.tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def logits(self, ids: Sequence[int], segments: Sequence[int]) -> np.ndarray:
        """The logits of one row of token ids, unpadded, [labels]."""
        words = self.tensors["bert.embeddings.word_embeddings.weight"][list(ids)]
        positions = self.tensors["bert.embeddings.position_embeddings.weight"][: len(ids)]
        segment_rows = self.tensors["bert.embeddings.token_type_embeddings.weight"][list(segments)]
        hidden = self.norm("bert.embeddings.LayerNorm", words + positions + segment_rows)
        for layer in range(self.config["num_hidden_layers"]):
            hidden = self.layer(f"bert.encoder.layer.{layer}", hidden)
        pooled = np.tanh(self.linear("bert.pooler.dense", hidden[0]))
        return self.linear("classifier", pooled)

    def layer(self, name: str, hidden: np.ndarray) -> np.ndarray:
        """One encoder layer, [s, hidden] to [s, hidden]."""
        attended = self.linear(f"{name}.attention.output.dense", self.attention(f"{name}.attention.self", hidden))
        hidden = self.norm(f"{name}.attention.output.LayerNorm", hidden + attended)
        wide = self.linear(f"{name}.intermediate.dense", hidden)
        wide = wide * 0.5 * (1 + ERF(wide / math.sqrt(2)))
        return self.norm(f"{name}.output.LayerNorm", hidden + self.linear(f"{name}.output.dense", wide))

    def attention(self, name: str, hidden: np.ndarray) -> np.ndarray:
        """Scaled dot-product attention over all heads, [s, hidden] to [s, hidden]."""
        heads = self.config["num_attention_heads"]
        query_shd, key_shd, value_shd = (
            self.linear(f"{name}.{part}", hidden).reshape(len(hidden), heads, -1) for part in ("query", "key", "value")
        )
        scores_hqk = np.einsum("qhd,khd->hqk", query_shd, key_shd) / math.sqrt(query_shd.shape[2])
        weights_hqk = np.exp(scores_hqk - scores_hqk.max(axis=2, keepdims=True))
        weights_hqk /= weights_hqk.sum(axis=2, keepdims=True)
        return np.einsum("hqk,khd->qhd", weights_hqk, value_shd).reshape(hidden.shape)

    def linear(self, name: str, inputs: np.ndarray) -> np.ndarray:
        """An affine map; its weight is [outputs, inputs]."""
        return inputs @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name: str, inputs: np.ndarray) -> np.ndarray:
        """Layer normalisation over the last axis."""
        centred = inputs - inputs.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        return centred / deviation * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]
