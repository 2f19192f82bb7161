"""Masked language modelling."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from opengte.data import TrainingBatch
from opengte.train.gradient_cache import GradientCache
from opengte.train.objectives.base import LossShare, loss_share
from opengte.types import PackedBatch


@dataclass(frozen=True)
class MaskedTokens:
    """Masked language modelling (arXiv 1810.04805): predict the original ids of masked tokens.

    Tokens are drawn at `rate`; of those, a share `shown` keeps its id, a share `random` gets a
    random id, and the rest get the mask token. Special tokens are never drawn. The draw depends on
    seed, step and row alone.

    >>> MaskedTokens(mask=103, vocabulary=30522, special=(101, 102)).outputs
    ('masked',)
    """

    mask: int  # token id
    vocabulary: int
    special: tuple[int, ...]
    rate: float = 0.3
    shown: float = 0.1
    random: float = 0.1

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the outputs of the trainable model that the objective needs."""
        return ("masked",)

    def step(self, passes: GradientCache, batch: TrainingBatch, seed: tuple[int, ...]) -> LossShare:
        """Add the gradients of this process's share of the loss of the global batch."""
        masked, targets = self.draw(batch, seed)
        count = sum(passes.world.counts(int((targets >= 0).sum())))
        return loss_share(passes.summed(masked, targets, count, seed), masked)

    def draw(
        self, batch: TrainingBatch, seed: tuple[int, ...]
    ) -> tuple[PackedBatch, npt.NDArray[np.int32]]:
        """Return the texts with hidden tokens, and what was hidden: ids, -1 elsewhere (t,)."""
        texts = batch.query.texts
        ids, targets = texts.ids.copy(), np.full(len(texts.ids), -1, np.int32)
        drawable = ~np.isin(ids, self.special)
        bounds = texts.cu_seqlens.tolist()
        for place, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
            generator = np.random.default_rng([*seed, batch.first + place])
            chance, other = generator.random((2, stop - start))
            drawn = drawable[start:stop] & (chance < self.rate)
            span = slice(start, stop)
            targets[span] = np.where(drawn, texts.ids[span], -1)
            ids[span] = np.where(drawn, self._shown(ids[span], other, generator), ids[span])
        return replace(texts, ids=ids), targets

    def _shown(
        self,
        ids: npt.NDArray[np.int32],
        chance: npt.NDArray[np.float64],
        generator: np.random.Generator,
    ) -> npt.NDArray[np.int32]:
        others = generator.integers(self.vocabulary, size=len(ids), dtype=np.int32)
        shown = np.where(chance < self.shown + self.random, others, np.int32(self.mask))
        return np.where(chance < self.shown, ids, shown).astype(np.int32)
