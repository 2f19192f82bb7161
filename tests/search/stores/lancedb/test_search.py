"""The fast legs of the LanceDB store against the exact ones, before and after upkeep."""

import numpy as np
import pytest

from opengte.search.stores.lancedb import maintenance
from opengte.search.stores.lancedb import search as legs
from opengte.search.stores.lancedb.store import LanceStore
from tests.support import kb
from tests.support.installed import needs

needs("lancedb")
WIDTH = 256
COUNT = 900


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An index of vectors around centres, in parts of 64 with few bits a dimension."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, WIDTH))
    made = LanceStore(str(tmp_path_factory.mktemp("legs") / "lance"))
    made.save_settings({"dimension": WIDTH, "first_pass": None, "language": "English"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maintenance, "INDEX_FROM", 500)
        patch.setattr(maintenance, "PARTITION", 64)
        for first in (0, COUNT // 2):
            documents = [kb.document(f"d{first + n}", rng, WIDTH) for n in range(COUNT // 2)]
            for one in documents:
                near = centres[rng.integers(30)] + 0.7 * rng.standard_normal(WIDTH)
                object.__setattr__(one.windows[0], "vector", kb.unit(near))
            made.put(documents)
        assert made.optimize() == []
        yield made, centres, rng


def recall(made, centres, rng) -> float:
    """The share of the best 10 and of the best 200, which are what is fused, whichever is less."""
    shares = {10: [], 200: []}
    for n in range(20):
        question = kb.unit(centres[n] + 0.7 * rng.standard_normal(WIDTH))
        for k, found in shares.items():
            true = {name for name, _ in made.dense(question, k, None, exact=True)}
            found.append(len(true & {name for name, _ in made.dense(question, k, None)}) / k)
    return min(float(np.mean(found)) for found in shares.values())


def parts(made) -> int:
    """How many parts the index of vectors has, as a search sees it."""
    search = made.table("windows").search([0.1] * WIDTH, vector_column_name="vector")
    plan = search.distance_type("dot").nprobes(1).analyze_plan()
    return int(plan.split("partitions_ranked=")[1].split(",")[0])


def test_few_bits_a_dimension_find_what_is_closest(store):
    made, centres, rng = store
    assert made.health().indexes["vectors"] == "IvfRq"
    assert recall(made, centres, rng) >= 0.93


def test_upkeep_keeps_the_parts_small(store):
    made, centres, rng = store
    before = parts(made)
    assert before >= COUNT // 64 // 2
    made.put([kb.document(f"new{n}", rng, WIDTH) for n in range(20)])
    assert made.optimize() == []
    assert parts(made) >= before // 2
    assert made.health().unindexed["vectors"] == 0
    assert recall(made, centres, rng) >= 0.93


def test_narrow_vectors_have_eight_bits():
    from lancedb.index import IvfRq, IvfSq

    kinds = {width: type(maintenance.vector_config(width)) for width in (8, 255, 256, 260, 384)}
    assert kinds == {8: IvfSq, 255: IvfSq, 256: IvfRq, 260: IvfSq, 384: IvfRq}


def test_larger_tables_are_looked_into_more():
    assert legs.probes(0) == legs.probes(100_000) == legs.PROBES
    assert legs.probes(4_000_000) > legs.probes(1_000_000) > legs.PROBES
