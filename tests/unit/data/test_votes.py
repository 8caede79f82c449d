"""Votes: what a ranking says, how it is saved, and which rows are refused."""

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stance.data.comparisons import compared, of_pairs, of_scores, of_votes, split
from stance.data.preferences import Pair
from stance.data.samples import SampledAnswer, Samples, answer_hash, read_samples, write_samples
from stance.data.votes import (
    Score,
    Vote,
    append_vote,
    current,
    latest,
    ranked_pairs,
    read_scores,
    read_votes,
    require_known,
    require_scored,
)
from stance.errors import InputError

A, B, C, D = (answer_hash(text) for text in "abcd")
AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def vote(ranks: list[int], answers: tuple[str, ...] = (A, B, C, D), **changes: Any) -> Vote:
    values = {"prompt_id": 1, "answers": list(answers), "ranks": ranks, "by": "Wang", "at": AT, "seed": 7}
    return Vote.model_validate(values | changes)


def samples(ident: int = 1, texts: str = "abcd") -> Samples:
    answers = [SampledAnswer.of(text, "stop", [-0.5]) for text in texts]
    return Samples(id=ident, prompt=f"{ident}?", answers=answers, dropped=0)


def test_a_ranking_of_four_gives_six_pairs_with_the_distance_of_their_ranks():
    assert set(ranked_pairs(vote([2, 1, 4, 3]))) == {
        (B, A, 1), (B, D, 2), (B, C, 3), (A, D, 1), (A, C, 2), (D, C, 1)
    }  # fmt: skip


@pytest.mark.parametrize("ranks", [[1, 2, 2, 3], [1, 2, 2, 4]])
def test_tied_answers_give_no_pair_and_count_as_one_rank(ranks: list[int]):
    """However a program numbers the rank after a tie."""
    assert set(ranked_pairs(vote(ranks))) == {(A, B, 1), (A, C, 1), (A, D, 2), (B, D, 1), (C, D, 1)}


@pytest.mark.parametrize("silent", [vote([1, 1, 1, 1]), vote([1, 2, 3, 4], all_bad=True), vote([], skipped=True)])
def test_a_vote_that_prefers_nothing_gives_no_pair(silent: Vote):
    assert ranked_pairs(silent) == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"answers": [A], "ranks": [1]}, "a vote on 1 answer ranks nothing; expected at least 2"),
        ({"answers": [A, A], "ranks": [1, 2]}, "an answer is listed twice"),
        ({"ranks": [1, 2]}, "there are 2 ranks for 4 answers"),
        ({"ranks": [0, 1, 2, 3]}, "expected 1 for the best answer and at most 4"),
        ({"ranks": [1, 2, 3, 9]}, "expected 1 for the best answer and at most 4"),
        ({"answers": ["a", "b"], "ranks": [1, 2]}, "should match pattern"),
        ({"at": datetime(2026, 1, 1)}, "should have timezone info"),
        ({"by": ""}, "at least 1 character"),
    ],
)
def test_a_vote_that_is_none_is_refused(values: dict[str, Any], problem: str):
    with pytest.raises(ValidationError, match=problem):
        vote([1, 2, 3, 4], **values) if "ranks" not in values else vote(**values)


def test_a_later_vote_of_the_same_person_on_the_same_order_replaces_the_earlier_one():
    first, corrected, again, other = (
        vote([1, 2, 3, 4]), vote([4, 3, 2, 1]), vote([1, 1, 2, 2], seed=8), vote([1, 2, 3, 4], by="Lin")
    )  # fmt: skip
    assert current([first, again, other, corrected]) == [corrected, again, other]
    assert current([first, vote([], skipped=True)]) == []


def test_a_models_vote_counts_only_where_no_person_has_ranked():
    person = vote([1, 2, 3, 4])
    beside, alone = (vote([4, 3, 2, 1], by="base", is_model=True, prompt_id=ident) for ident in (1, 2))
    assert current([beside, alone, person]) == [alone, person]
    assert current([beside, alone, vote([], skipped=True)]) == [beside, alone]
    assert latest([beside, person]) == [beside, person]


def test_votes_are_appended_and_read_back(tmp_path: Path):
    votes = [vote([1, 2, 3, 4], reason="第一個最有力"), vote([1, 1, 2, 2], by="Lin"), vote([], skipped=True)]
    for row in votes:
        append_vote(tmp_path / "votes/votes.jsonl", row)
    assert read_votes(tmp_path / "votes/votes.jsonl") == votes
    assert read_votes(tmp_path / "nothing.jsonl") == []


def test_a_half_written_vote_is_passed_over_and_cut_off_by_the_next_one(tmp_path: Path):
    path = tmp_path / "votes.jsonl"
    append_vote(path, vote([1, 2, 3, 4]))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"prompt_id": 1, "answ')
    assert read_votes(path) == [vote([1, 2, 3, 4])]
    append_vote(path, vote([4, 3, 2, 1]))
    assert read_votes(path) == [vote([1, 2, 3, 4]), vote([4, 3, 2, 1])]


def test_no_vote_of_several_people_at_once_is_lost(tmp_path: Path):
    def work(name: str) -> None:
        for seed in range(20):
            append_vote(tmp_path / "votes.jsonl", vote([1, 2, 3, 4], by=name, seed=seed))

    people = [threading.Thread(target=work, args=(name,)) for name in ("Wang", "Lin", "Chen")]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert sorted((row.by, row.seed) for row in read_votes(tmp_path / "votes.jsonl")) == sorted(
        (name, seed) for name in ("Wang", "Lin", "Chen") for seed in range(20)
    )


def test_a_broken_row_is_named(tmp_path: Path):
    append_vote(tmp_path / "votes.jsonl", vote([1, 2, 3, 4]))
    with (tmp_path / "votes.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"prompt_id": 1}\n')
    with pytest.raises(InputError, match=r"votes.jsonl, row 2: answers: field required; correct or remove the row"):
        read_votes(tmp_path / "votes.jsonl")


def test_votes_on_answers_that_are_not_there_are_refused(tmp_path: Path):
    path = tmp_path / "votes.jsonl"
    require_known(path, [vote([1, 2, 3, 4])], [samples()])
    with pytest.raises(InputError, match="ranks 1 unknown answers, the first of question 1 with hash 18ac3e7343f0"):
        require_known(path, [vote([1, 2, 3, 4])], [samples(texts="abc")])  # SHA-256 of "d" begins so
    with pytest.raises(InputError, match="has votes on question 1, whose samples are deleted; bring them back"):
        require_known(path, [vote([1, 2, 3, 4])], [samples(2)])


def score(answer: str, value: float, ident: int = 1) -> Score:
    return Score(prompt_id=ident, answer=answer, score=value, by="Lin", at=AT)


def test_scores_become_standard_deviations_and_comparisons(tmp_path: Path):
    """Scores 1, 3, 3, 5: mean 3, variance (4 + 0 + 0 + 4) / 4 = 2."""
    rows = [score(A, 1), score(B, 3), score(C, 3), score(D, 5)]
    for row in rows:
        append_vote(tmp_path / "scores.jsonl", row)
    assert read_scores(tmp_path / "scores.jsonl") == rows
    require_scored(tmp_path / "scores.jsonl", rows, [samples()])
    scored = of_scores(rows, [samples()], "Be brief.")
    assert [row.score for row in scored] == pytest.approx([-(2**0.5), 0, 0, 2**0.5])
    assert {(row.chosen, row.rejected) for row in compared(scored)} == {
        ("b", "a"), ("c", "a"), ("d", "a"), ("d", "b"), ("d", "c")
    }  # fmt: skip
    with pytest.raises(InputError, match="holds 2 scores without two different ones"):
        require_scored(tmp_path / "scores.jsonl", [score(A, 2), score(B, 2)], [samples()])


def test_comparisons_of_a_vote_keep_texts_distance_and_order_of_showing():
    rows = of_votes([vote([3, 1, 2], (C, A, B))], [samples()], "Be brief.")
    assert [(row.chosen, row.rejected, row.distance, row.chosen_first) for row in rows] == [
        ("a", "b", 1, True), ("a", "c", 2, False), ("b", "c", 1, False)
    ]  # fmt: skip
    assert rows[0].prompt == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1?"}]


def test_questions_are_held_out_whole_and_stay_together():
    rows = of_votes(
        [vote([1, 2, 3, 4], prompt_id=ident) for ident in range(10)], [samples(ident) for ident in range(10)], "."
    )
    train, held_out = split(rows, 0.3, 1)
    assert len(train) == 7 * 6
    assert len(held_out) == 3 * 6
    assert not {row.id for row in train} & {row.id for row in held_out}
    for part in (train, held_out):
        order = [row.id for row in part]
        assert order == [ident for ident in dict.fromkeys(order) for _ in range(6)]
    assert split(rows, 0.3, 1) == (train, held_out)
    assert split(rows, 0.3, 2) != (train, held_out)
    assert len({row.id for row in split(rows, 0.001, 1)[1]}) == 1
    assert len({row.id for row in split(rows, 0.999, 1)[0]}) == 1
    with pytest.raises(InputError, match="answers to 1 question; expected at least 2"):
        split(rows[:6], 0.3, 1)


def pair(ident: int, preferred: str) -> Pair:
    against = "oppose" if preferred == "support" else "support"
    texts = {"chosen": preferred, "rejected": against}
    turns = {name: [{"role": "assistant", "content": text}] for name, text in texts.items()}
    row = {"id": ident, "preferred": preferred, "against": against, "prompt": [{"role": "user", "content": "?"}]}
    return Pair.model_validate(row | turns)


def test_pairs_that_all_stand_there_both_ways_are_refused():
    assert len(of_pairs([pair(1, "support"), pair(1, "oppose"), pair(2, "support")])) == 3
    with pytest.raises(InputError, match="every preference pair also stands there the other way round"):
        of_pairs([pair(1, "support"), pair(1, "oppose")])


def test_samples_are_read_back_and_a_changed_text_is_noticed(tmp_path: Path):
    path = tmp_path / "samples.jsonl"
    write_samples(path, [samples(1), samples(2)])
    assert read_samples(path) == [samples(1), samples(2)]
    path.write_text(path.read_text().replace('"text": "a"', '"text": "z"'), encoding="utf-8")
    with pytest.raises(InputError, match=r"row 1: answers.0: sha256 is not the hash of the text; run `dvc repro sam"):
        read_samples(path)
    write_samples(path, [samples(1), samples(1)])
    with pytest.raises(InputError, match="has two rows with one id"):
        read_samples(path)
    with pytest.raises(InputError, match="does not exist; run `dvc repro sample`"):
        read_samples(tmp_path / "nothing.jsonl")
