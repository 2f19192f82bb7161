"""Training data: files of texts -> packed batches of token ids, in an order that is a function.

Files are read (`sources`), cleaned and filtered (`cleaning`, `filters`, `consistency`), tokenised
into memory-mapped shards (`prepare`, `shards`), and come back as batches (`order`, `batches`).
`mining` finds hard negatives. Nothing here loads a model: what needs one is handed a function.
"""

from opengte.data.batches import Batch, Batches, Column, joined
from opengte.data.dataset import Dataset, Source
from opengte.data.order import Draw, Order

__all__ = ["Batch", "Batches", "Column", "Dataset", "Draw", "Order", "Source", "joined"]
