"""Training data: source files to packed batches of token ids, in a reproducible order.

`reading` parses source files, `cleaning` cleans, filters and deduplicates their rows, `preparation`
tokenises them into memory-mapped `shards`, and `sampling` makes batches of those. `mining` finds
hard negatives. Nothing here loads a model: functions that need one take it as a callable.
"""

from opengte.data.mining.files import MiningModels, mine_hard_negatives
from opengte.data.mining.hard_negatives import MiningSettings
from opengte.data.preparation.prepare import PreparationResult, prepare
from opengte.data.preparation.source_tokenizer import SourceTokenizer
from opengte.data.preparation.window import PreparationSettings
from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.sources import SourceSpec
from opengte.data.sampling.loader import (
    BatchLoader,
    BatchTexts,
    TrainingBatch,
    cross_encoder_sequences,
)
from opengte.data.sampling.sampler import BatchDraw, BatchSampler
from opengte.data.shards.dataset import Dataset, DatasetSource

__all__ = [
    "BatchDraw",
    "BatchLoader",
    "BatchSampler",
    "BatchTexts",
    "ColumnMapping",
    "Dataset",
    "DatasetSource",
    "MiningModels",
    "MiningSettings",
    "PreparationResult",
    "PreparationSettings",
    "SourceSpec",
    "SourceTokenizer",
    "TrainingBatch",
    "cross_encoder_sequences",
    "mine_hard_negatives",
    "prepare",
]
