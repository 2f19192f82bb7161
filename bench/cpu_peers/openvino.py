"""OpenVINO on the converted model; int8 is quantised by NNCF and computes the rest in bf16."""

from pathlib import Path
from typing import Any

import openvino

from cpu_peers.padded_batches import Floats, Ids, Padded

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}


class Peer(Padded):
    """One compiled model."""

    def __init__(self, options: dict[str, Any]) -> None:
        settings = {
            "INFERENCE_NUM_THREADS": options["threads"],
            "INFERENCE_PRECISION_HINT": HINTS[options["precision"]],
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on all threads
        }
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(options["artifact"]), "CPU", settings)
        self._request = compiled.create_infer_request()
        super().__init__(Path(options["peer_folder"]), options["max_length"], self._run)

    def _run(self, ids: Ids, mask: Ids) -> Floats:
        result = self._request.infer({0: ids, 1: mask}, share_inputs=True)
        vectors: Floats = result[0].copy()
        return vectors
