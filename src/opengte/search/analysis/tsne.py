"""Project vectors to two dimensions: principal components, then t-SNE.

Both are deterministic. The repulsion of t-SNE, a sum over all pairs, is a convolution on a grid (as
in FIt-SNE), which is linear in the rows and samples nothing.

Letters in shapes: n rows, d width, k neighbours, g cells of a side of the grid.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from opengte.types import Floats

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

NEIGHBOURS = 15
WIDTH = 50  # components by which neighbours are found
BLOCK = 1024  # rows whose neighbours are looked for at once
STEPS, FEWEST_STEPS = 300, 120  # of moving: fewer for many rows, whose steps take longer
WORK = 2_000_000  # rows times steps, about
EARLY = 0.35  # of the steps, in which attraction is stronger
EXAGGERATION, LATER = 12.0, 1.5  # how much, then and afterwards, so that groups stand apart
LONGEST_STEP = 5.0
CELL = 0.5  # of the grid: the kernel falls to a half within 1
SIDES = (32, 48, 64, 96, 128, 160)  # cells of the grid; sizes that are quickly transformed
COARSER = 1.1  # how much, where the largest side is too short
FEWEST = 5  # rows from which neighbours say more than components


def project(vectors: Floats) -> Floats:
    """Return places (n, 2) of vectors (n, d), in -1 to 1; close vectors lie close together."""
    rows = np.asarray(vectors, dtype=np.float32)
    if len(rows) < 2:
        return np.zeros((len(rows), 2), np.float32)
    components = principal(rows, min(WIDTH, len(rows) - 1, rows.shape[1]))
    places = np.zeros((len(rows), 2))
    places[:, : components.shape[1]] = components[:, :2]
    if len(rows) >= FEWEST:
        places = _embed(components, places)
    places = places - (places.max(axis=0) + places.min(axis=0)) / 2
    return np.asarray(places / max(float(np.abs(places).max()), 1e-12), dtype=np.float32)


def principal(rows: Floats, count: int, seed: int = 0) -> Floats:
    """Return the first principal components (n, count), by a randomised SVD.

    A component's sign is such that its largest value is positive.
    """
    centred = rows - rows.mean(axis=0)
    width = min(count + 10, *centred.shape)
    random = np.random.default_rng(seed).standard_normal((centred.shape[1], width))
    basis, _ = np.linalg.qr(centred @ random.astype(np.float32))
    for _ in range(4):  # power iterations, so that close singular values are told apart
        other, _ = np.linalg.qr(centred.T @ basis)
        basis, _ = np.linalg.qr(centred @ other)
    left, sizes, _ = np.linalg.svd(basis.T @ centred, full_matrices=False)
    found = (basis @ left)[:, :count] * sizes[:count]
    signs = np.sign(found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])])
    return np.asarray(found * np.where(signs == 0, 1, signs), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class NeighbourEdges:
    """How strongly rows attract their neighbours: indices (n, k) and weights (n, k); a weight
    counts for both ends, and all of them sum to a half."""

    indices: Indices
    weights: Doubles


def _embed(components: Floats, places: Doubles) -> Doubles:
    """Move places (n, 2) until neighbours are close and others are not: t-SNE."""
    edges = affinities(*nearest_neighbours(components, min(NEIGHBOURS, len(components) - 1)))
    spread = float(np.abs(places).std())
    places = places * (1e-2 / max(spread, 1e-12))
    places = places + 1e-4 * np.random.default_rng(0).standard_normal(places.shape)  # equal rows
    speed, gain = np.zeros_like(places), np.ones_like(places)
    rate = len(places) / EXAGGERATION / 4  # at most: a row's attractions sum to 1 / n, times 4
    steps = int(np.clip(WORK / len(places), FEWEST_STEPS, STEPS))
    for step in range(steps):
        early = step < EARLY * steps
        force = 4 * attraction(edges, places) * (EXAGGERATION if early else LATER)
        force -= 4 * repulsion(places)
        gain = np.maximum(np.where(np.sign(force) == np.sign(speed), gain * 0.8, gain + 0.2), 0.01)
        speed = (0.5 if early else 0.8) * speed - rate * gain * force
        speed = np.clip(speed, -LONGEST_STEP, LONGEST_STEP)
        places = places + speed
        places = places - places.mean(axis=0)
    return places


def nearest_neighbours(rows: Floats, k: int) -> tuple[Indices, Doubles]:
    """Return the k nearest other rows of each, and their squared distances, both (n, k)."""
    squares = (rows * rows).sum(axis=1)
    indices = np.empty((len(rows), k), np.int64)
    distances = np.empty((len(rows), k))
    for start in range(0, len(rows), BLOCK):
        end = min(start + BLOCK, len(rows))
        block = squares[start:end, None] + squares[None] - 2 * rows[start:end] @ rows.T
        block[np.arange(end - start), np.arange(start, end)] = np.inf
        found = np.argpartition(block, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(block, found, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        indices[start:end] = np.take_along_axis(found, order, axis=1)
        distances[start:end] = np.maximum(np.take_along_axis(values, order, axis=1), 0)
    return indices, distances


def affinities(indices: Indices, distances: Doubles) -> NeighbourEdges:
    """Return edges to neighbours; the weights of every row have the same perplexity."""
    count, k = indices.shape
    wanted = np.log(max(1.5, k / 3))
    scaled = distances / np.maximum(distances.mean(axis=1, keepdims=True), 1e-12)
    low, high = np.full(count, -20.0), np.full(count, 20.0)  # logarithms of the precision
    for _ in range(40):
        middle = (low + high) / 2
        wide = _entropy(_weights(scaled, middle)) > wanted
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return NeighbourEdges(indices, _weights(scaled, (low + high) / 2) / (2 * count))


def _weights(scaled: Doubles, precision: Doubles) -> Doubles:
    exponents = -scaled * np.exp(precision)[:, None]
    values = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def _entropy(weights: Doubles) -> Doubles:
    return np.asarray(-(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1))


def attraction(edges: NeighbourEdges, places: Doubles) -> Doubles:
    """Return where neighbours pull each row from, (n, 2)."""
    force = np.empty_like(places)
    difference = [places[:, i, None] - places[:, i][edges.indices] for i in (0, 1)]  # (n, k) each
    factor = edges.weights / (1 + difference[0] ** 2 + difference[1] ** 2)
    ends = edges.indices.reshape(-1)
    for i in (0, 1):
        pull = factor * difference[i]
        force[:, i] = pull.sum(axis=1) - np.bincount(ends, pull.reshape(-1), len(places))
    return force


def repulsion(places: Doubles) -> Doubles:
    """Return how all others push each row, (n, 2), on a grid: see `repulsion_exact`."""
    low = places.min(axis=0)
    size, cell = _grid(float((places.max(axis=0) - low).max()))
    corner = np.floor((places - low) / cell)
    inside = (places - low) / cell - corner  # (n, 2), in 0 to 1
    at = corner.astype(np.int64)
    shares = [(at[:, 0] + x) * size + at[:, 1] + y for x in (0, 1) for y in (0, 1)]
    parts = [
        (inside[:, 0] if x else 1 - inside[:, 0]) * (inside[:, 1] if y else 1 - inside[:, 1])
        for x in (0, 1)
        for y in (0, 1)
    ]

    def on_grid(charge: Doubles) -> Doubles:
        total = sum(
            np.bincount(share, part * charge, size * size)
            for share, part in zip(shares, parts, strict=True)
        )
        return np.asarray(total).reshape(size, size)

    def read(grid: Doubles) -> Doubles:
        flat = grid.reshape(-1)
        return np.asarray(sum(flat[s] * part for s, part in zip(shares, parts, strict=True)))

    near, square = _kernels(size, cell)
    one = np.ones(len(places))
    shape = (2 * size, 2 * size)
    spectra = [np.fft.rfft2(on_grid(c), shape) for c in (one, places[:, 0], places[:, 1])]

    def summed(spectrum: npt.NDArray[np.complex128], kernel: npt.NDArray[np.complex128]) -> Doubles:
        return read(np.fft.irfft2(spectrum * kernel, shape)[:size, :size])

    total = float((summed(spectra[0], near) - _own(inside, cell)).sum())
    weight, x, y = (summed(spectrum, square) for spectrum in spectra)
    force = np.stack([places[:, 0] * weight - x, places[:, 1] * weight - y], axis=1)
    return np.asarray(force / max(total, 1e-12))


def _own(inside: Doubles, cell: float) -> Doubles:
    """Return what each row reads of itself from the grid, (n,); of the forces, that is nothing."""
    differ = 2 * inside * (1 - inside)  # (n, 2): shares of the corners on both sides, multiplied
    equal = 1 - differ
    straight, across = 1 / (1 + cell**2), 1 / (1 + 2 * cell**2)
    return np.asarray(
        equal[:, 0] * equal[:, 1]
        + (differ[:, 0] * equal[:, 1] + equal[:, 0] * differ[:, 1]) * straight
        + differ[:, 0] * differ[:, 1] * across
    )


def _grid(extent: float) -> tuple[int, float]:
    """Return the cells of a side, and their length, of a grid that holds this and is one of few."""
    cell = CELL
    while extent / cell > SIDES[-1] - 2:
        cell *= COARSER
    return next(side for side in SIDES if extent / cell <= side - 2), cell


@lru_cache(4)
def _kernels(size: int, cell: float) -> tuple[npt.NDArray[np.complex128], ...]:
    """Return the spectra of 1 / (1 + r^2) and of its square over the distances on the grid."""
    steps = np.minimum(np.arange(2 * size), 2 * size - np.arange(2 * size)) * cell
    near = 1 / (1 + steps[:, None] ** 2 + steps[None] ** 2)
    return np.fft.rfft2(near), np.fft.rfft2(near * near)


def repulsion_exact(places: Doubles) -> Doubles:
    """Return how all others push each row, (n, 2), from all pairs: what the grid approximates."""
    difference = places[:, None] - places[None]
    near = 1 / (1 + (difference * difference).sum(axis=2))
    np.fill_diagonal(near, 0)
    return np.asarray(((near * near)[:, :, None] * difference).sum(axis=1) / near.sum())
