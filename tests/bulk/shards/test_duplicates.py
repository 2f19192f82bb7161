"""The external join against a dictionary, with and without files."""

import numpy as np
import pytest

from opengte.bulk.shards import duplicates


@pytest.mark.parametrize("held", [1, 50, 10**6])
@pytest.mark.parametrize("seed", range(5))
def test_the_join_finds_what_a_dictionary_finds(tmp_path, monkeypatch, held, seed):
    monkeypatch.setattr(duplicates, "HELD", held)
    rng = np.random.default_rng(seed)
    found = duplicates.ContentJoin(tmp_path)
    first: dict[bytes, tuple[int, int]] = {}
    files: dict[bytes, set[int]] = {}
    rows = []
    for source in [*range(-3, 0), *range(40)]:
        texts = [f"text {n}" for n in rng.integers(0, 200, rng.integers(1, 9))]
        hashes = [duplicates.content_hash("", text) for text in texts]
        found.add(hashes, source, np.arange(len(texts)), len(texts[0]))
        for row, one in enumerate(hashes):
            first.setdefault(one, (source, row))
            if source >= 0 or first[one][0] == source:
                files.setdefault(one, set()).add(source)
            rows.append((one, source, row))
    found.join()
    wanted = set()
    seen = set()
    for one, source, row in rows:
        if source >= 0 and (one, source) not in seen and len(files[one]) > 1:
            wanted.add((source, row, *first[one]))
        seen.add((one, source))
    links = {tuple(map(int, link)) for link in found.links(0).tolist()}
    assert links == wanted
    ours = {one for one, source, _ in rows if source >= 0}
    assert found.distinct == len(ours)
    assert found.earlier == sum(first[one][0] < 0 for one in ours)
