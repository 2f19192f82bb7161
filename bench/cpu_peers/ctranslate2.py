"""CTranslate2: BERT with weights quantised to int8; it pads and batches by itself."""

from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np

from cpu_peers.padded_batches import Floats, Ids, Padded


class Peer(Padded):
    """An encoder of the converted model, with the pooling in NumPy."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._encoder = ctranslate2.Encoder(
            options["artifact"],
            device="cpu",
            compute_type="int8",
            inter_threads=1,
            intra_threads=options["threads"],
        )
        self._mean = options["pooling"] == "mean"
        super().__init__(Path(options["peer_folder"]), options["max_length"], self._run)

    def _run(self, ids: Ids, mask: Ids) -> Floats:
        lengths = mask.sum(1)
        rows = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
        states = np.asarray(self._encoder.forward_batch(rows).last_hidden_state)
        pooled = states[:, 0]
        if self._mean:
            weights = mask[:, :, None].astype(np.float32)
            pooled = (states * weights).sum(1) / weights.sum(1)
        result: Floats = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return result
