"""sentence-transformers: its own pipeline, as `SentenceTransformer.encode` runs it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, Pooling, Transformer
from transformers import PreTrainedTokenizerFast

from cpu_peers.padded_batches import Floats, batch_size
from cpu_peers.sentence_module import DTYPES, both_ways


class Peer:
    """A SentenceTransformer of transformer, pooling and normalisation."""

    def __init__(self, options: dict[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        folder, precision = Path(options["peer_folder"]), options["precision"]
        transformer = Transformer(
            str(folder),
            max_seq_length=options["max_length"],
            model_args={"dtype": DTYPES[precision], "local_files_only": True},
        )
        both_ways(transformer.auto_model)
        # by the network's kind it may have taken another tokenizer than the folder has
        transformer.processor = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_file=str(folder / "tokenizer.json"),
            pad_token="[PAD]",
            model_max_length=options["max_length"],
        )
        width = transformer.get_word_embedding_dimension()
        mode = {"last": "lasttoken"}.get(options["pooling"], options["pooling"])
        modules = [transformer, Pooling(width, pooling_mode=mode), Normalize()]
        self._model = SentenceTransformer(modules=modules, device="cpu")

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return the vectors of texts, in their order."""
        vectors: Floats = (
            self._model.encode(
                list(texts),
                batch_size=batch_size(len(texts)),
                show_progress_bar=False,
                convert_to_tensor=True,
            )
            .float()
            .numpy()
        )
        return vectors
