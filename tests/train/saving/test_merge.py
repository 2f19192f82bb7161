"""Averages and spherical interpolation of models."""

import pytest
import torch

from opengte import checkpoint as checkpoints
from opengte.errors import InputError
from opengte.reference.load import load_reference_model
from opengte.train.saving import merge
from tests.support import train_small as small


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    return [small.model(folder / str(seed), seed=seed) for seed in range(3)]


def weights(folder) -> dict[str, torch.Tensor]:
    found = checkpoints.read_checkpoint(folder)
    model = load_reference_model(found.plan, found.chunks(), torch.float64, "cpu")
    return {name: value.detach() for name, value in model.named_parameters()}


def test_an_average_is_the_mean_of_the_weights(tmp_path, others):
    folders = [one.folder for one in others]
    merge.average_models(folders, tmp_path / "merged", (1, 2, 5))
    given = [weights(folder) for folder in folders]
    for name, value in weights(tmp_path / "merged").items():
        expected = (given[0][name] + 2 * given[1][name] + 5 * given[2][name]) / 8
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    assert "(0.625)" in (tmp_path / "merged/README.md").read_text()


def test_slerp_goes_along_the_arc(tmp_path, others):
    a, b = (one.folder for one in others[:2])
    merge.slerp(a, b, tmp_path / "merged", 0.25)
    first, second = weights(a), weights(b)
    for name, value in weights(tmp_path / "merged").items():
        x, y = first[name], second[name]
        angle = torch.arccos((x * y).sum() / (x.norm() * y.norm())) if x.norm() else None
        if angle is None or not angle > 1e-6:
            expected = x + 0.25 * (y - x)
        else:
            expected = (torch.sin(0.75 * angle) * x + torch.sin(0.25 * angle) * y) / angle.sin()
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


def test_the_ends_of_the_arc_are_the_models():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 4, generator=draw)
    torch.testing.assert_close(merge.slerp_tensor(a, b, 0.0), a)
    torch.testing.assert_close(merge.slerp_tensor(a, b, 1.0), b)
    torch.testing.assert_close(merge.slerp_tensor(a, 2 * a, 0.5), 1.5 * a)
    assert not merge.slerp_tensor(torch.zeros(3), torch.zeros(3), 0.5).any()


def test_models_that_cannot_be_merged(tmp_path, others):
    one = others[0].folder
    with pytest.raises(InputError, match="1 models and 1 weights; expected two models or more"):
        merge.average_models([one], tmp_path / "a")
    with pytest.raises(InputError, match="expected none below 0 and one above it"):
        merge.average_models([one, one], tmp_path / "a", (0, 0))
    with pytest.raises(InputError, match="t is 2, expected 0"):
        merge.slerp(one, one, tmp_path / "a", 2)
    with pytest.raises(InputError, match="is another network than"):
        merge.average_models([one, "minilm"], tmp_path / "a")
    assert not (tmp_path / "a").exists()
