"""The default model gives the published MTEB figures, to two decimals."""

import importlib.util
import os
from pathlib import Path

import pytest

from opengte import Encoder
from opengte.errors import DownloadError

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("OPENGTE_DATA", ROOT.parent / "shared" / "data")) / "mteb"

spec = importlib.util.spec_from_file_location("sts", ROOT / "bench" / "sts.py")
assert spec is not None and spec.loader is not None
sts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sts)


@pytest.mark.slow
@pytest.mark.parametrize("task", sts.PUBLISHED)
def test_sts_figures_equal_the_published_ones(task):
    path = DATA / task / "test.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not here: set OPENGTE_DATA to the evaluation data")
    try:
        encoder = Encoder.load("minilm", engine="torch", precision="fp32")
    except DownloadError as error:
        pytest.skip(f"the default model cannot be fetched: {error}")
    assert encoder.card.max_length == 256
    assert round(sts.figure(encoder, sts.rows(path)), 2) == sts.PUBLISHED[task]


def test_spearman_is_scipys():
    import numpy as np
    from scipy.stats import spearmanr

    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 9, 200).astype(float), generator.standard_normal(200)
    assert sts.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
