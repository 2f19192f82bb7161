"""A two-dimensional map of the documents of a store, with named regions.

Letters in shapes: n documents on the map, d width of a vector.
"""

from dataclasses import dataclass

import numpy as np

from opengte.search.analysis.cluster import cluster
from opengte.search.analysis.tsne import project
from opengte.search.stores.base import Store
from opengte.search.stores.listing import list_documents, sample_by_id, summarize_documents
from opengte.types import Floats, Ints

MOST = 10_000  # documents on a map; of more, a sample


@dataclass(frozen=True, eq=False)
class MapRegion:
    """A group of documents: a name made of its words, its size, and its most typical document."""

    name: str
    documents: int
    medoid: str


@dataclass(frozen=True, eq=False)
class DocumentMap:
    """Documents with their places (n, 2) in -1 to 1 and the numbers of their regions (n,), -1 for
    none; of `total` documents, which are more where this is a sample."""

    ids: list[str]
    titles: list[str]
    places: Floats
    labels: Ints
    regions: list[MapRegion]
    total: int


def draw_map(store: Store, most: int = MOST) -> DocumentMap:
    """Return the map of a store. The same documents make the same map."""
    found, total = sample_by_id(list_documents(store), most)
    titles = {one.id: one.title for one in found}
    drawn = sorted(summarize_documents(store, list(titles)), key=lambda one: one.id)
    if not drawn:
        none = np.zeros((0, 2), np.float32)
        return DocumentMap([], [], none, np.zeros(0, np.int32), [], total)
    vectors = np.array([one.vector for one in drawn], dtype=np.float32)
    groups = cluster(vectors, [one.head for one in drawn])
    sizes = np.bincount(groups.labels[groups.labels >= 0], minlength=len(groups.names)).tolist()
    regions = [
        MapRegion(name, size, drawn[int(medoid)].id)
        for name, size, medoid in zip(groups.names, sizes, groups.medoids, strict=True)
    ]
    return DocumentMap(
        [one.id for one in drawn],
        [titles[one.id] for one in drawn],
        project(vectors),
        np.asarray(groups.labels, dtype=np.int32),
        regions,
        total,
    )
