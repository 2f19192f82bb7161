"""The counts of dropped rows."""

import json
from collections import Counter

from opengte.data.cleaning import report


def test_a_tally_adds_up_and_survives_json():
    tally = report.Tally(read=3, kept=1, dropped=Counter(a=2), shown={"a": [{"row": 1}]})
    other = report.Tally.of(json.loads(json.dumps(tally.record())))
    tally.add(other)
    assert tally.dropped == {"a": 4}
    assert (tally.read, tally.kept, len(tally.shown["a"])) == (6, 2, 2)
