"""Facts hidden in long documents."""

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from opengte.errors import InputError
from opengte.evaluate import needle, report
from tests.support.evaluation import HashEncoder

NAMES = {name.lower() for name in (*needle.FIRST_NAMES, *needle.LAST_NAMES)}


def counter(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def test_documents_have_their_length_and_position() -> None:
    fact = "The pass key of Alma Berg is 01234."
    for position in needle.POSITIONS:
        text = needle.generate_document(fact, 500, position, counter, random.Random(0))
        words = text.split()
        assert 480 <= len(words) <= 500
        place = words.index("pass") / len(words)
        assert abs(place - position) < 0.05


def test_a_model_goes_blind_where_it_stops_reading() -> None:
    encoder = HashEncoder(max_length=64, only=NAMES)
    found = needle.run_needle_test(encoder, lengths=[64, 256], kinds=["passkey"], documents=8)
    seen = {(cell.length, cell.position): cell.accuracy for cell in found}
    assert seen[256, 0.0] == 1.0  # the fact stands before the cut
    assert max(seen[256, p] for p in (0.5, 0.75, 1.0)) <= 0.5
    assert needle.first_blind_length(found) == 256
    assert "Blind spots begin at 256 tokens" in needle.needle_verdict(found, 64)
    assert "drops the rest" in needle.needle_verdict(found, 64)
    assert all(cell.truncated == 8 for cell in found if cell.length == 256)


def test_a_model_that_reads_everything_sees() -> None:
    found = needle.run_needle_test(HashEncoder(only=NAMES), lengths=[64, 128], documents=4)
    assert len(found) == 2 * 2 * 5
    assert min(cell.accuracy for cell in found) == 1.0


def test_generated_data_depend_only_on_the_seed() -> None:
    first, again, other = (generated(seed) for seed in (1, 1, 2))
    assert first == again != other


def generated(seed: int) -> list[list[str]]:
    encoder = HashEncoder()
    needle.run_needle_test(encoder, lengths=[64], documents=3, seed=seed)
    return [call["texts"] for call in encoder.calls]


def test_the_report_shows_a_grid_with_the_limit() -> None:
    encoder = HashEncoder(max_length=100)
    made = needle.needle_report(
        needle.run_needle_test(encoder, lengths=[64, 128, 256], documents=4), encoder
    )
    page = report.to_html(made)
    assert page.count("<svg") == 2 and "reads 100 tokens" in page
    cells = made.data["cells"]
    assert all(a["length"] <= b["length"] for a, b in pairwise(cells[:15]))


@pytest.mark.parametrize(("lengths", "documents"), [([], 4), ([10], 4), ([64], 1), ([64], 500)])
def test_impossible_wishes_are_refused(lengths: list[int], documents: int) -> None:
    with pytest.raises(InputError, match="expected"):
        needle.check_sizes(lengths, documents)
