"""Private parts of queries are hidden, and shown before anything is written."""

import pytest

from opengte.errors import InputError
from opengte.review.redaction import Redactor

PRIVATE = {
    "email": "write to ann.b+c@mail.example.org",
    "secret": "my key is sk-abcdefghijklmnop1234",
    "iban": "pay DE89 3704 0044 0532 0130 00",
    "card": "card 4111 1111 1111 1111 was refused",
    "address": "server 10.0.0.17 is down",
    "phone": "call +44 20 7946 0958",
}


@pytest.mark.parametrize("name", PRIVATE)
def test_private_parts_become_their_names(name):
    assert f"[{name}]" in Redactor().redact(PRIVATE[name])


@pytest.mark.parametrize(
    "text", ["undo a commit", "version 3.11.4 of python", "error 404 in 2024", "0.5 to 12 mg/kg"]
)
def test_other_texts_stay(text):
    assert Redactor().redact(text) == text


def test_a_preview_counts_and_shows_what_would_be_written():
    texts = ["undo", "ann@example.org", "bob@example.org", "ticket ABC-123"]
    found = Redactor([r"\b[A-Z]+-\d+\b"]).preview(texts)
    assert found.texts == 4
    assert found.changed == {"email": 2, "private 1": 1}
    assert found.examples["private 1"] == ["ticket [private 1]"]


@pytest.mark.parametrize(
    ("pattern", "said"), [("(", "no regular expression"), ("x*", "hides every")]
)
def test_patterns_that_cannot_be_used(pattern, said):
    with pytest.raises(InputError, match=said):
        Redactor([pattern])
