"""zentorch: the model that transformers loads, through `torch.compile(backend="zentorch")`."""

from pathlib import Path
from typing import Any

import torch
import zentorch  # noqa: F401  registers the backend

from cpu_peers import sentence_module
from cpu_peers.padded_batches import Floats, Ids, Padded


class Peer(Padded):
    """A compiled module, for batches of any size."""

    def __init__(self, options: dict[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        folder = Path(options["peer_folder"])
        module = sentence_module.load(folder, options["pooling"], options["precision"])
        torch._dynamo.config.cache_size_limit = 64
        self._module = torch.compile(module, backend="zentorch", dynamic=True)
        super().__init__(folder, options["max_length"], self._run)

    def _run(self, ids: Ids, mask: Ids) -> Floats:
        with torch.inference_mode():
            result: Floats = self._module(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
            return result
