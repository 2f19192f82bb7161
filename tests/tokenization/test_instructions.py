import json
from importlib.resources import files

import pytest

from opengte.tokenization import instruction_for

TABLE = json.loads(
    (files("opengte.tokenization") / "mteb_instructions.json").read_text(encoding="utf-8")
)


def test_every_suite_is_whole() -> None:
    sizes = {suite: len(tasks) for suite, tasks in TABLE["suites"].items()}
    assert sizes == {"english": 44, "chinese": 27, "french": 17, "polish": 10}


def test_every_named_task_has_its_own_instruction() -> None:
    for tasks in TABLE["suites"].values():
        for task, instruction in tasks.items():
            assert instruction_for(task, "Retrieval") == instruction


def test_no_instruction_was_damaged() -> None:
    for tasks in TABLE["suites"].values():
        for instruction in tasks.values():
            assert instruction == instruction.strip()
            assert not set(instruction) & set("`|\n")


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("Banking77Classification", "Given a online banking query, find the corresponding intents"),
        ("ArguAna", "Given a claim, find documents that refute the claim"),
        ("STSBenchmark", None),
        (
            "8TagsClustering",
            "Identify of headlines from social media posts in Polish  into 8 categories: film, "
            "history, food, medicine, motorization, work, sport and technology",
        ),
        (
            "PAC",
            'Classify the sentence into one of the two types: "BEZPIECZNE_POSTANOWIENIE_UMOWNE" '
            'and "KLAUZULA_ABUZYWNA"',
        ),
        ("Cmnli", "Retrieve semantically similar text."),
        ("PawsX", "Retrieve semantically similar text"),
        ("SICK-E-PL", "Retrieve semantically similar text"),
    ],
)
def test_exact_strings(task: str, expected: str | None) -> None:
    assert instruction_for(task) == expected


@pytest.mark.parametrize(
    ("variant", "task"),
    [
        ("SciFact-PL", "SciFact"),
        ("FiQA-PL", "FiQA2018"),
        ("Quora-PL", "QuoraRetrieval"),
        ("DBPedia-PLHardNegatives", "DBPedia"),
        ("FEVERHardNegatives", "FEVER"),
        ("Touche2020Retrieval.v3", "Touche2020"),
        ("TwentyNewsgroupsClustering.v2", "TwentyNewsgroupsClustering"),
        ("MassiveIntentClassification (zh-CN)", "MassiveIntentClassification"),
        ("AmazonReviewsClassification (fr)", "AmazonReviewsClassification"),
        ("CMedQAv1", "CMedQAv1-reranking"),
    ],
)
def test_variants_of_a_name(variant: str, task: str) -> None:
    assert instruction_for(variant) == instruction_for(task) is not None


@pytest.mark.parametrize("task", ["CQADupstackRetrieval", "CQADupstackEnglish", "CQADupstack-PL"])
def test_cqadupstack(task: str) -> None:
    found = instruction_for(task)
    assert found is not None
    assert found.endswith("that are duplicates to the given question")


def test_miracl() -> None:
    for task in ("MIRACLRetrieval", "MIRACLRetrievalHardNegatives", "MIRACLReranking"):
        expected = "Given a question, retrieve Wikipedia passages that answer the question"
        assert instruction_for(task, "Retrieval") == expected


@pytest.mark.parametrize(
    ("task_type", "expected"),
    [
        ("STS", "Retrieve semantically similar text."),
        ("BitextMining", "Retrieve parallel sentences."),
        ("Summarization", "Given a news summary, retrieve other semantically similar summaries"),
        ("NLI", "Retrieve a sentence that is semantically entailed by the given sentence."),
        ("Classification", "Classify user passages."),
        ("Clustering", "Identify categories in user passages."),
        ("PairClassification", "Retrieve text that are semantically similar to the given text."),
        ("Retrieval", "Retrieve text based on user query."),
        ("Juggling", None),
        (None, None),
    ],
)
def test_an_unknown_task_falls_back_to_its_type(task_type: str | None, expected: str) -> None:
    assert instruction_for("NewTask", task_type) == expected
