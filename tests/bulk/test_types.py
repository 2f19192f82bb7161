"""What an output says of one row."""

import numpy as np
import pytest

from opengte.bulk.types import EmbeddedRows
from opengte.types import Embeddings, Truncated


@pytest.mark.parametrize("at_least", [False, True])
def test_a_lower_bound_is_marked(at_least):
    counts = np.array([16, 16], np.int32)
    embeddings = Embeddings(
        dense=np.zeros((2, 4), np.float32),
        token_counts=counts,
        truncated=(Truncated(1, 8195, 16, at_least),),
        sparse=None,
        tokens=None,
        states=None,
        repaired=(),
    )
    rows = EmbeddedRows(("a", "b"), embeddings)
    assert rows.metadata(0) == {"id": "a", "token_count": 16}
    marked = {"at_least": True} if at_least else {}
    assert rows.metadata(1) == {"id": "b", "token_count": 16, "truncated_from": 8195, **marked}
