"""Votes by a model: both orders, the bound, and an endpoint that fails."""

import logging

import pytest

from stance.client.endpoint import find_endpoint
from stance.data.votes import append_vote, current, read_rows, read_votes
from stance.errors import InputError
from stance.evaluation.classifier import Verdict
from stance.language.comparison import CHINESE, ENGLISH, letter, request_for
from stance.ranking.items import Item, rankable, seed_of, shown
from stance.ranking.model_votes import (
    Bound,
    endpoint_ranker,
    judge_ranker,
    points,
    ranks_of_points,
    ranks_of_scores,
    vote,
)
from stance.ranking.revisions import FILE, Revision, revise, revision_rows
from tests.builders.ranked import ranked_by_text, several
from tests.doubles.endpoint import Fault

ROWS = rankable(several(6))
BOUND = Bound(0.6, 3)


def by_text(item: Item) -> list[int]:
    texts = sorted(answer.text for answer in item.answers)
    return [texts.index(answer.text) + 1 for answer in item.answers]


def backwards(item: Item) -> list[int]:
    return [len(item.answers) + 1 - rank for rank in by_text(item)]


@pytest.fixture
def path(tmp_path):
    """Return a file of votes by a person on four of six questions."""
    path = tmp_path / "votes.jsonl"
    for row in ROWS[:4]:
        append_vote(path, ranked_by_text(shown(row, seed_of("Wang", row.id, 0)), "Wang"))
    return path


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("A", "A"), ("B.", "B"), ("答案是B", "B"), ("Answer B is better", "B"),
        ("A or B", None), ("", None), ("<html>", None), ("ABBA", None), ("b", None),
    ],
)  # fmt: skip
def test_a_reply_names_one_letter_or_none(reply, named):
    assert letter(reply) == named


def test_the_wording_is_in_the_language_of_the_questions():
    assert request_for(["真人版好看嗎？"]) is CHINESE
    assert request_for(["Is it worth seeing?"]) is ENGLISH


def test_disagreement_of_the_two_orders_is_a_tie():
    assert ranks_of_points(points(2, [(0, 1)])) == [1, 1]
    assert ranks_of_points(points(2, [(1, 1)])) == [2, 1]
    assert ranks_of_points(points(3, [(0, 0), (0, 0), (1, 2)])) == [1, 2, 2]


def test_scores_that_hardly_differ_are_a_tie():
    assert ranks_of_scores([0.1, 0.9, 0.88, -0.5]) == [2, 1, 1, 3]


@pytest.mark.parametrize(("prefer", "ranks"), [("support", [1, 3, 2]), ("oppose", [3, 1, 2])])
def test_the_stance_judge_ranks_by_its_score_for_the_preferred_side(prefer, ranks):
    item = shown(ROWS[0], 0)
    scores = {answer.text: score for answer, score in zip(item.answers, (0.9, -0.9, 0.0), strict=True)}

    class Judge:
        def predict(self, prompts, responses):
            assert prompts == [item.prompt] * 3
            return [Verdict("neutral", scores[text]) for text in responses]

        def is_broken(self, text):
            return False

    assert judge_ranker(Judge(), prefer)(item) == ranks


def test_a_model_that_agrees_with_people_votes_on_the_other_questions_too(path):
    assert vote(ROWS, path, "base", by_text, "the guideline", BOUND) == 6
    votes = read_votes(path)
    by_model = [row for row in votes if row.by == "base"]
    assert [row.prompt_id for row in by_model] == [row.id for row in ROWS]
    assert all(row.is_model and row.reason == "the guideline" for row in by_model)
    assert [row.by for row in current(votes)] == ["Wang"] * 4 + ["base"] * 2
    assert vote(ROWS, path, "base", by_text, "the guideline", BOUND) == 0


def test_a_model_below_the_bound_votes_only_where_people_have_voted(path):
    with pytest.raises(InputError, match=r"base may not vote alone: kappa -\d\.\d\d .* at least 0\.6"):
        vote(ROWS, path, "base", backwards, "", BOUND)
    votes = read_votes(path)
    assert [row.prompt_id for row in votes if row.by == "base"] == [row.id for row in ROWS[:4]]
    assert {row.by for row in current(votes)} == {"Wang"}


def test_a_model_without_people_is_refused(tmp_path):
    with pytest.raises(InputError, match="have ranked 0 questions in common; expected at least 3"):
        vote(ROWS, tmp_path / "votes.jsonl", "base", by_text, "", BOUND)


def test_a_model_does_not_vote_under_the_name_of_a_person(path):
    with pytest.raises(InputError, match="a person has voted under the name Wang; give the model another one"):
        vote(ROWS, path, "Wang", by_text, "", BOUND)


def test_a_failure_costs_its_vote_and_nothing_else(path, caplog):
    before = read_votes(path)

    def sometimes(item: Item) -> list[int]:
        if item.id == ROWS[1].id:
            raise InputError("the endpoint is down")
        return by_text(item)

    assert vote(ROWS, path, "base", sometimes, "", BOUND) == 5
    assert read_votes(path)[: len(before)] == before
    assert f"no vote on question {ROWS[1].id}: the endpoint is down" in caplog.text
    assert vote(ROWS, path, "base", by_text, "", BOUND) == 1


def test_after_three_failures_in_a_row_no_more_are_asked(path, caplog):
    asked = []

    def never(item: Item) -> list[int]:
        asked.append(item.id)
        raise InputError("the endpoint is down")

    with pytest.raises(InputError, match="have ranked 0 questions in common"):
        vote(ROWS, path, "base", never, "", BOUND)
    assert len(asked) == 3
    assert "3 questions in a row failed; 1 are not asked" in caplog.text


def prefers(double, start: str):
    """Make the endpoint prefer the answer that begins so, wherever it stands; otherwise A."""

    def said(model: str, question: str) -> str:
        second = question.split("\nB: ")[1]
        return "B" if second.startswith(start) else "A"

    double.said = said


def test_a_model_behind_an_endpoint_is_asked_in_both_orders(double):
    prefers(double, "answer b")
    item = shown(ROWS[0], 0)
    ranks = endpoint_ranker(find_endpoint(), "aligned", ENGLISH, "The better one is b.")(item)
    ranked = {answer.text: rank for answer, rank in zip(item.answers, ranks, strict=True)}
    assert ranked == {"answer b to 1": 1, "answer a to 1": 2, "answer c to 1": 2}  # a and c: always A, so a tie
    assert len(double.asked) == 6
    assert len(set(double.questions)) == 6
    assert "The better one is b." in double.asked[0]["messages"][0]["content"]


def test_an_endpoint_that_answers_nonsense_or_is_down_costs_only_its_votes(double, path, caplog, monkeypatch):
    rank = endpoint_ranker(find_endpoint(), "aligned", ENGLISH, "")
    with pytest.raises(InputError, match="have ranked 0 questions in common"):
        vote(ROWS, path, "aligned", rank, "", BOUND)
    assert "expected the letter A or B" in caplog.text
    caplog.clear()
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    rank = endpoint_ranker(find_endpoint(), "aligned", ENGLISH, "")
    with pytest.raises(InputError, match="have ranked 0 questions in common"):
        vote(ROWS, path, "aligned", rank, "", BOUND)
    assert "nothing answers at http://127.0.0.1:9/v1" in caplog.text
    assert len(read_votes(path)) == 4


def test_critique_and_revision_give_a_pair_and_a_failure_costs_its_pair(double, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    drafts = [row.answers[0].text for row in ROWS]
    broken = ENGLISH.critique.format(guideline="Be kind.", question=ROWS[1].prompt, answer=drafts[1])
    double.faults[broken] = [Fault("nonsense")]
    double.said = lambda model, question: "better" if "Critique: weak" in question else "weak"
    path = tmp_path / FILE
    new = revise(ROWS[:3], path, find_endpoint(), "aligned", "aligned", ENGLISH, "Be kind.")
    assert new == 2
    rows = read_rows(path, Revision)
    assert [(row.prompt_id, row.critique, row.revision) for row in rows] == [
        (ROWS[0].id, "weak", "better"), (ROWS[2].id, "weak", "better")
    ]  # fmt: skip
    [first, _] = revision_rows(rows, ROWS, "")
    assert (first["chosen"][0]["content"], first["rejected"][0]["content"]) == ("better", drafts[0])
    assert revise(ROWS[:3], path, find_endpoint(), "aligned", "aligned", ENGLISH, "Be kind.") == 1
