"""Training data: files of texts -> packed batches of token ids, in an order that is a function.

Files are read (`sources`), cleaned and filtered (`cleaning`, `filters`, `consistency`), tokenised
into memory-mapped shards (`prepare`, `shards`), and come back as batches (`order`, `batches`).
`mining` finds hard negatives. Nothing here loads a model: what needs one is handed a function.
"""

from opengte.data.sampling.loader import (
    BatchLoader,
    BatchTexts,
    TrainingBatch,
    cross_encoder_sequences,
)
from opengte.data.sampling.sampler import BatchDraw, BatchSampler
from opengte.data.shards.dataset import Dataset, DatasetSource

__all__ = [
    "TrainingBatch",
    "BatchLoader",
    "BatchTexts",
    "Dataset",
    "BatchDraw",
    "BatchSampler",
    "DatasetSource",
    "cross_encoder_sequences",
]
