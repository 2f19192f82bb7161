"""How sure an answer is: learned, stated honestly, shown, and forgotten with the model."""

import json
import random
import re
from importlib import resources

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import opengte
from opengte.cli import main
from opengte.errors import InputError
from opengte.search.calibration import calibrate, confidence, logistic, questions
from opengte.search.calibration.questions import Question
from opengte.search.kb import KnowledgeBase
from tests.support import kb as helpers
from tests.support.fake_models import FakeReranker
from tests.support.installed import needs
from tests.support.kb import WordEncoder
from tests.support.kb_switch_kill import load

needs("lancedb")
NAMES = "ant bear crow duck eel frog goat hare ibis jay kite lion".split()
VERBS = "bites chases draws eats finds greets hears".split()


def texts():
    pairs = zip(NAMES, [*NAMES[1:], "ant"], strict=True)
    return {f"{a}-{v}": f"{a} {v} {b}" for a, b in pairs for v in VERBS}


def labelled():
    return [Question(text, {name: 1.0}) for name, text in list(texts().items())[::2]]


@pytest.fixture
def base(tmp_path):
    made = KnowledgeBase.create(tmp_path / "kb", helpers.encoder())
    made.add(list(texts().values()), list(texts()))
    return KnowledgeBase.open(tmp_path / "kb", load=load)


def test_it_learns_keeps_and_shows(base):
    assert base.search("ant bites bear").confidence is None
    made = base.calibrate(labelled())
    accuracy = made.accuracy
    assert (accuracy.questions, accuracy.unanswerable) == (84, 42)
    assert accuracy.there.auc > 0.9
    assert accuracy.there.brier < accuracy.there.always
    again = KnowledgeBase.open(base.place, load=load)
    assert again.calibration.accuracy == accuracy
    for one in (base, again):
        answer = one.search("ant bites bear", 3)
        assert len(answer.hits) == 3
        assert answer.hits[0].id == "ant-bites"
        assert answer.hits[0].confidence > 0.5 > answer.hits[2].confidence
        assert answer.confidence > 0.5
    assert again.search("zebra yawns xylophone").confidence < 0.5


def test_confidence_does_not_depend_on_how_many_are_shown(base):
    base.calibrate(labelled())
    many, few = (base.search("crow draws duck", k) for k in (10, 1))
    assert many.hits[0].confidence == few.hits[0].confidence
    assert many.confidence == few.confidence


def test_nothing_here_answers_that(base):
    base.calibrate(labelled())
    answer = base.search("zebra yawns xylophone", min_confidence="auto")
    assert answer.hits == ()
    assert answer.notes[0].startswith("nothing here answers that (confidence 0.")
    (note,) = base.search("zebra yawns xylophone").notes
    assert note.startswith("probably nothing here answers that")
    assert base.search("ant bites bear", min_confidence="auto").hits
    assert base.search("ant bites bear", min_confidence=0.0).hits
    assert not base.search("ant bites bear", min_confidence=1.0).hits
    with pytest.raises(InputError, match="min_confidence is 2, expected 'auto' or 0 to 1"):
        base.search("ant", min_confidence=2)


def test_without_calibration_there_is_no_least_confidence(base):
    with pytest.raises(InputError, match="needs an index that was calibrated") as caught:
        base.search("ant", min_confidence=0.5)
    assert caught.value.__notes__ == ["learn it: gte index calibrate KB"]


def test_another_way_of_searching_has_no_confidence(base):
    base.calibrate(labelled())
    answer = base.search("ant bites bear", legs=("dense",))
    assert answer.confidence is None
    assert answer.notes == ("no confidence: the index was calibrated for other legs",)
    with pytest.raises(InputError, match="calibrated for other reranker"):
        base.search("ant bites bear", reranker=FakeScorer(), min_confidence="auto")
    base.calibrate(labelled(), reranker=FakeScorer())
    assert base.search("ant bites bear", reranker=FakeScorer()).confidence is not None
    assert base.search("ant bites bear").confidence is None


class FakeScorer(FakeReranker):
    def score(self, query, documents):
        words = set(query.split())
        return np.array([len(words & set(one.split())) for one in documents], np.float32)


def test_a_switch_forgets_and_a_rollback_remembers(base):
    base.calibrate(labelled())
    made = KnowledgeBase(base.migrate(WordEncoder.load("other")).commit())
    assert made.calibration is None
    assert made.search("ant bites bear").confidence is None
    assert KnowledgeBase(made.rollback().commit()).calibration is not None


def test_a_calibration_of_other_settings_does_not_hold(base):
    base.calibrate(labelled())
    settings = dict(base.settings)
    assert confidence.calibration_of(settings) is not None
    assert confidence.calibration_of({**settings, "passages": "none"}) is None
    other = {**settings["calibration"], "version": 0}
    assert confidence.calibration_of({**settings, "calibration": other}) is None


def test_it_can_be_forgotten(base):
    base.calibrate(labelled())
    base.forget_calibration()
    assert base.calibration is None
    assert KnowledgeBase.open(base.place, load=load).calibration is None


def test_questions_out_of_the_documents(base):
    made = base.calibrate(generate=84)
    assert made.learned_from == "generated"
    assert made.accuracy.unanswerable == made.accuracy.questions // 2
    assert made.accuracy.hit.auc > 0.7
    assert base.calibrate(generate=84).accuracy == made.accuracy
    assert base.search("ant bites bear").confidence > 0.3
    names = dict(zip(confidence.FEATURES, made.hit.weights, strict=True))
    assert names["words"] == names["lexical"] == 0.0  # people ask in other words
    assert names["lexical_z"] > 0.0


def test_a_generated_question_is_words_of_one_sentence():
    text = "The quick brown fox jumps over the lazy hen. It rains cats! 漢字は日本語の文字であり。"
    plain = re.findall(r"\w+", text)
    for seed in range(40):
        question = calibrate.generate_question(text, {}, random.Random(seed))
        words = question.split()
        assert calibrate.WORDS[0] <= len(words) <= calibrate.WORDS[1]
        if words[0].isascii():
            places = [plain.index(word) for word in words]
            assert places == sorted(places)
    assert calibrate.generate_question("Ok.", {}, random.Random(0)) is None


@given(st.text(st.sampled_from("ab1 .。漢\t\n-"), max_size=80), st.integers(0, 9))
def test_a_generated_question_is_never_blank(text, seed):
    for given_text in (text, f"{text}                                       {text}"):
        made = calibrate.generate_question(given_text, {}, random.Random(seed))
        assert made is None or re.search(r"\w", made)


def test_pages_of_few_words_and_many_blanks_are_learned_from(tmp_path):
    made = helpers.kb(tmp_path)
    texts = [f"ab{n}{' ' * 60}cd{n}\n\nThe entry {n} names a value of the list." for n in range(25)]
    made.add(texts, map(str, range(25)))
    assert made.calibrate().accuracy.questions >= 20


def test_what_is_off_topic_is_less_sure_than_what_is_answered(base):
    for asked in (None, labelled()):
        made = base.calibrate(asked, generate=84)
        assert made.accuracy.off_topic > 40 and made.accuracy.auc_off_topic > 0.9
        off = base.search("how to make elephants happy in a zoo").confidence
        assert off < base.search("ant bites bear").confidence
        assert base.search("elephants zoo happy", min_confidence="auto").hits == ()


def test_questions_about_what_the_index_is_about_are_not_off_topic(tmp_path):
    made = helpers.kb(tmp_path)
    file = resources.files("opengte.search.calibration").joinpath(calibrate.OFF_TOPIC)
    lines = file.read_text("utf-8").splitlines()
    made.add(lines, map(str, range(len(lines))))
    assert made.calibrate(generate=len(lines)).accuracy.off_topic < len(lines) / 2


def test_confidence_is_not_worse_than_the_best_feature_alone():
    chance = np.random.default_rng(0)
    examples = []
    for number in range(240):
        sort = ("answered", "hidden", "off topic")[number % 3]
        rows = chance.standard_normal((3, len(confidence.FEATURES)))
        rows[:, 0] += {"answered": 4, "hidden": 3, "off topic": 0}[sort]
        right = (sort == "answered", False, False)
        examples.append(calibrate._Example(str(number), rows, right, right[0], sort == "off topic"))
    for wordless in (True, False):
        _, kind = calibrate._kinds(examples, 0, wordless=wordless)
        told = calibrate._told(examples, calibrate._held_out(examples, kind, 0))
        alone = calibrate._Kind(calibrate._overall, np.arange(len(kind.used)) == 0)
        best = calibrate._told(examples, calibrate._held_out(examples, alone, 0))
        assert all(a >= b - 0.01 for a, b in zip(told, best, strict=True))


def test_hidden_documents_are_not_found(base):
    hidden = calibrate.HidingStore(base.store, frozenset({"ant-bites", "ant-eats"}))
    asked = base.current.encode_query("ant bites bear")
    for found, every in (
        (hidden.dense(asked.vector, 5, None), base.store.dense(asked.vector, 7, None)),
        (hidden.lexical(asked.text, 5, None), base.store.lexical(asked.text, 7, None)),
        (hidden.sparse(asked.sparse, 5, None), base.store.sparse(asked.sparse, 7, None)),
    ):
        assert found == [one for one in every if one[0] not in ("ant-bites", "ant-eats")][:5]
    assert hidden.count() == base.store.count()


def test_too_little_to_learn_from(base):
    with pytest.raises(InputError, match="expected at least 20 to learn from"):
        base.calibrate(labelled()[:3])
    with pytest.raises(InputError, match="does not say what answers it"):
        base.calibrate([Question("ant")])
    wrong = [Question(one.text, {"nowhere": 1.0}) for one in labelled()]
    with pytest.raises(InputError, match="the hits to all .* questions are wrong: expected both"):
        base.calibrate(wrong)


def test_questions_without_an_answer_of_ones_own(base):
    asked = [*labelled(), *(Question(f"zebra {n} yawns", {}) for n in range(30))]
    made = base.calibrate(asked)
    assert made.accuracy.unanswerable == 30
    assert made.accuracy.questions == 72


def test_logistic_regression_against_plain_descent():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 4)) * [1, 5, 0.1, 0] + [0, 3, 0, 2]
    right = (rng.random(300) < 1 / (1 + np.exp(-(rows @ [1, -0.3, 4, 0] + 0.5)))).astype(float)
    made = logistic.fit_logistic(rows, right, ridge=1.0)
    x = (rows - rows.mean(0)) / np.where(rows.std(0) > 1e-9, rows.std(0), 1)
    weights, bias = np.zeros(4), 0.0
    for _ in range(20_000):
        p = 1 / (1 + np.exp(-(x @ weights + bias)))
        weights -= 0.01 * (x.T @ (p - right) + weights)
        bias -= 0.01 * (p - right).sum()
    np.testing.assert_allclose(made.weights, weights, atol=1e-6)
    assert made.bias == pytest.approx(bias, abs=1e-6)
    assert made(rows).mean() == pytest.approx(right.mean(), abs=1e-6)


def test_a_perfect_separation_still_ends():
    rows = np.array([[float(n)] for n in range(40)])
    made = logistic.fit_logistic(rows, (rows[:, 0] > 19).astype(float))
    assert made(np.array([[0.0], [39.0]])) == pytest.approx([0, 1], abs=0.1)


SCORES = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()))


@given(SCORES)
def test_auc_and_threshold_against_counting(pairs):
    p = np.array([one for one, _ in pairs], float)
    right = np.array([one for _, one in pairs], float)
    good, bad = p[right > 0], p[right == 0]
    if not len(good) or not len(bad):
        assert logistic.auc(p, right) is None
        return
    wins = [float(a > b) + 0.5 * float(a == b) for a in good for b in bad]
    assert logistic.auc(p, right) == pytest.approx(np.mean(wins))
    limit, missed, passed = logistic.best_threshold(p, right)
    assert missed == (good < limit).mean()
    assert passed == (bad >= limit).mean()
    for other in np.linspace(0, 1.01, 60):
        assert missed + passed <= (good < other).mean() + (bad >= other).mean() + 1e-9


def test_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    assert logistic.ece(p, (rng.random(20_000) < p).astype(float)) < 0.02
    assert logistic.ece(p, (rng.random(20_000) < p**3).astype(float)) > 0.2
    assert logistic.ece(np.array([0.8]), np.array([1.0])) == pytest.approx(0.2)


# --- files of questions --------------------------------------------------------------------------


def test_files_of_questions(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two \none\n")
    assert questions.read_questions(tmp_path / "a.txt") == [Question("one"), Question("two")]
    lines = [
        '{"query": "a", "relevant": ["x", "y"]}',
        '{"query": "b", "relevant": {"z": 2, "w": 0}}',
    ]
    (tmp_path / "b.jsonl").write_text("\n".join([*lines, '{"query": "c", "relevant": []}']))
    found = questions.read_questions(tmp_path / "b.jsonl")
    assert [one.relevant for one in found] == [{"x": 1, "y": 1}, {"z": 2}, {}]
    (tmp_path / "c.csv").write_text('question,document\n"a, b",x\n"a, b",y\nc,\n')
    assert questions.read_questions(tmp_path / "c.csv") == [
        Question("a, b", {"x": 1.0, "y": 1.0}),
        Question("c", {}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n", "has no questions"),
        ("a.txt", b"\xff", "is not UTF-8"),
        ("a.jsonl", "{", r"a.jsonl`:1: "),
        ("a.jsonl", '{"q": 1}', "expected an object with a text as `query`"),
        ("a.jsonl", '{"query": "a", "relevant": 3}', "`relevant` is 3, expected ids"),
        ("a.jsonl", '{"query": "a", "relevant": ["x"]}\n{"query": "b"}', "and not for 'b'"),
        ("a.tsv", "q\td\nonly\n", "expected a question and a document"),
        ("a.csv", 'q,d\na,b\n"c,d\ne,f\n', r"a.csv`:3 begins a row with a quotation mark that is"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        questions.read_questions(path)


def test_documents_are_named_by_id_or_path(tmp_path, monkeypatch):
    base = helpers.kb(tmp_path)
    (tmp_path / "rows.jsonl").write_text(
        '{"id": "a", "text": "red"}\n{"id": "b", "text": "blue"}\n'
    )
    (tmp_path / "one.txt").write_text("green")
    base.index([tmp_path / "rows.jsonl", tmp_path / "one.txt"])
    monkeypatch.chdir(tmp_path)
    asked = [Question("x", {"one.txt": 1.0, "gone": 1.0}), Question("y", {"rows.jsonl": 2.0})]
    asked += [Question("z", {"nowhere": 1.0}), Question("w", {})]
    found, missing = questions.resolve_documents(asked, base.latest())
    rows = f"{tmp_path.name}/rows.jsonl"
    assert [dict(one.relevant) for one in found] == [
        {f"{tmp_path.name}/one.txt": 1.0},
        {f"{rows}#a": 2.0, f"{rows}#b": 2.0},
        {},
    ]
    assert missing == [("x", "gone"), ("z", "nowhere")]


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def gte(monkeypatch):
    monkeypatch.setattr(opengte, "Encoder", WordEncoder, raising=False)
    for variable in ("GTE_DEBUG", "GTE_MODEL", "GTE_RERANKER"):
        monkeypatch.delenv(variable, raising=False)
    return lambda *given: CliRunner().invoke(main, [str(one) for one in given])


def test_the_command(base, gte, tmp_path):
    file = tmp_path / "questions.jsonl"
    rows = [{"query": one.text, "relevant": list(one.relevant)} for one in labelled()]
    file.write_text("\n".join(map(json.dumps, rows)))
    result = gte("index", "calibrate", base.place, "--labelled", file)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("calibrated on 84 labelled queries, 42 of them unanswera")
    assert "against off topic" in result.stdout
    assert "Brier 0." in result.stdout
    assert "of the answerable queries and accepts" in result.stdout
    (row,) = map(
        json.loads,
        gte("index", "calibrate", base.place, "--show", "--json").stdout.split("\n")[:-1],
    )
    assert (row["questions"], row["learned_from"]) == (84, "labelled")
    assert "\nconfidence    calibrated on " in gte("index", "status", base.place).stdout
    found = gte("search", "ant bites bear", "--in", base.place)
    assert "confidence 0." in found.stdout
    assert "confidence that an answer exists: " in found.stderr
    none = gte("search", "zebra yawns", "--in", base.place, "--min-confidence", "auto")
    assert (none.exit_code, none.stdout) == (0, "no document answers this query\n")
    assert "nothing here answers that (confidence" in none.stderr
    none = gte("search", "zebra yawns", "--in", base.place, "--min-confidence", "auto", "--json")
    assert none.stdout == ""
    bad = gte("search", "zebra", "--in", base.place, "--min-confidence", "often")
    assert bad.exit_code == 2
    assert gte("index", "calibrate", base.place, "--forget").exit_code == 0
    shown = gte("index", "calibrate", base.place, "--show")
    assert shown.stderr == "not calibrated, or calibrated with another model\n"
    wrong = gte("index", "calibrate", base.place, "--show", "--forget")
    assert (wrong.exit_code, "Give one of" in wrong.stderr) == (2, True)
    refused = gte("search", "zebra", "--in", base.place, "--min-confidence", "0.5")
    assert refused.exit_code == 1
    assert "hint: learn it: gte index calibrate KB" in refused.stderr


def test_least_confidence_needs_an_index(gte, tmp_path):
    result = gte("search", "x", tmp_path, "--min-confidence", "0.5")
    assert (result.exit_code, "--min-confidence needs an index" in result.stderr) == (2, True)


def test_a_command_of_generated_questions(base, gte):
    result = gte("index", "calibrate", base.place, "--generate", 84)
    assert result.stdout.startswith("calibrated on ")
    assert result.stderr == "note: real queries differ from generated ones\n"
