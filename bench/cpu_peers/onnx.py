"""ONNX Runtime on the exported model, fp32 or quantised dynamically to int8."""

from pathlib import Path
from typing import Any

import onnxruntime

from cpu_peers.padded_batches import Floats, Ids, Padded


class Peer(Padded):
    """One session of the CPU provider."""

    def __init__(self, options: dict[str, Any]) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options["threads"]
        settings.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            options["artifact"], settings, providers=["CPUExecutionProvider"]
        )
        super().__init__(Path(options["peer_folder"]), options["max_length"], self._run)

    def _run(self, ids: Ids, mask: Ids) -> Floats:
        result: Floats = self._session.run(None, {"ids": ids, "mask": mask})[0]
        return result
