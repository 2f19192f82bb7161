"""Late chunking through the service."""

import asyncio

import numpy as np
import pytest

from opengte import Encoder
from opengte.errors import CapabilityError, InputError
from tests.support.inference import embed, running


@pytest.fixture(scope="module")
def encoder():
    return Encoder.load("minilm", engine="native", precision="fp32")


def test_late_chunking_pools_the_pieces_of_one_document(encoder):
    pieces = ("Berlin is the capital of Germany.", "The city has three million people.")

    async def main():
        async with running() as core:
            return await embed(core, *pieces, late_chunking=True), await embed(core, *pieces)

    late, alone = asyncio.run(main())
    whole = encoder.embed([" ".join(pieces)], outputs=("states",)).states[0]
    first = encoder.tokenizer.count([pieces[0]])[0] - 2
    parts = whole[1 : 1 + first], whole[1 + first : -1]
    for part, vector in zip(parts, late.dense, strict=True):
        mean = part.mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)
    assert sum(late.token_counts) == len(whole)
    assert late.dense[1] @ alone.dense[1] < 0.999


def test_late_chunking_reads_long_documents_in_windows(encoder):
    pieces = tuple(f"Part {i} is about cats and dogs on mats." for i in range(60))

    async def main():
        async with running() as core:
            long = await embed(core, *pieces, late_chunking=True)
            short = await embed(core, *pieces[:10], late_chunking=True)
            with pytest.raises(InputError, match=r"inputs\[1\] is empty"):
                await embed(core, "a", " ", late_chunking=True)
            with pytest.raises(InputError, match=r"inputs\[0\] is token ids"):
                await embed(core, (1, 2), late_chunking=True)
            with pytest.raises(CapabilityError, match="dense vectors only"):
                await embed(core, "a", late_chunking=True, outputs=("states",))
            return long, short

    long, short = asyncio.run(main())
    assert len(long.dense) == 60
    for vector in long.dense:
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    # the first pieces have read nearly the same either way
    assert long.dense[0] @ short.dense[0] > 0.9
