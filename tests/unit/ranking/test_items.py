"""What a voter ranks next: the order of questions and answers, repeated and skipped items, and going back."""

from stance.data.votes import Score, Vote, read_votes
from stance.ranking.items import (
    REPEAT_AFTER,
    SHARED,
    Item,
    item_of,
    margin,
    next_item,
    own_votes,
    progress,
    rankable,
    seed_of,
    shown,
)
from tests.builders.ranked import AT, ranked_by_text, sampled, several, vote_on


def ranked(rows, voter: str, number: int, votes: list[Vote] | None = None) -> tuple[list[Item], list[Vote]]:
    """Return the items that a voter ranks one after the other, and all votes."""
    items, votes = [], list(votes or [])
    for _ in range(number):
        item = next_item(rows, votes, voter)
        assert item
        items.append(item)
        votes.append(ranked_by_text(item, voter))
    return items, votes


def test_the_margin_is_the_mean_difference_of_every_two_values():
    assert margin([1.0, 2.0, 4.0]) == 2.0  # 1, 3 and 2


def test_questions_with_a_small_margin_come_first_and_those_with_one_answer_not_at_all():
    rows = [sampled(1, "ab", 2.0), sampled(2, "ab", 0.1), sampled(3, "a"), sampled(4, "abc", 1.0)]
    assert [row.id for row in rankable(rows)] == [2, 4, 1]


def test_scores_give_the_margin_only_if_every_answer_has_one():
    rows = [sampled(1, "ab", 2.0), sampled(2, "ab", 0.1)]
    scores = [
        Score(prompt_id=row.id, answer=answer.sha256, score=place * row.id, by="rewards", at=AT)
        for row in rows
        for place, answer in enumerate(row.answers)
    ]
    assert [row.id for row in rankable(rows, scores)] == [1, 2]
    assert [row.id for row in rankable(rows, scores[:-1])] == [2, 1]


def test_the_order_of_the_answers_is_random_by_voter_and_the_same_after_a_restart():
    row = sampled(1, "abcdefgh")
    orders = {name: texts(shown(row, seed_of(name, 1, 0))) for name in ("Wang", "Lin", "Chen")}
    assert len({*orders.values()}) == 3
    assert {"".join(sorted(order)) for order in orders.values()} == {"abcdefgh"}
    backwards = row.model_copy(update={"answers": row.answers[::-1]})
    for same in (row, backwards):
        assert texts(shown(same, seed_of("Wang", 1, 0))) == orders["Wang"]


def texts(item: Item) -> str:
    return "".join(answer.text for answer in item.answers)


def test_every_question_comes_once_and_one_of_ten_a_second_time_in_another_order():
    rows = rankable(several(20))
    items, votes = ranked(rows, "Wang", 22)
    assert next_item(rows, votes, "Wang") is None
    idents = [item.id for item in items]
    assert idents[REPEAT_AFTER] == idents[0]
    assert idents[2 * REPEAT_AFTER + 1] in idents[REPEAT_AFTER + 1 : 2 * REPEAT_AFTER + 1]
    assert sorted(set(idents)) == list(range(1, 21))
    assert items[REPEAT_AFTER].seed != items[0].seed
    assert progress(rows, votes, "Wang") == (22, 22, 0)


def test_everybody_ranks_the_same_questions_first_and_then_those_that_fewest_have_ranked():
    rows = rankable(several(SHARED + 4))
    new = SHARED + 2 + SHARED // REPEAT_AFTER
    _, votes = ranked(rows, "Wang", new)
    items, _ = ranked(rows, "Lin", new + 2, votes)
    first = list(dict.fromkeys(item.id for item in items))
    assert first[:SHARED] == [row.id for row in rows[:SHARED]]
    assert first[SHARED:] == [SHARED + 3, SHARED + 4, SHARED + 1, SHARED + 2]


def test_a_skipped_question_comes_again_only_when_asked_for():
    rows = rankable(several(2))
    first = next_item(rows, [], "Wang")
    votes = [vote_on(first, [], "Wang", skipped=True)]
    second = next_item(rows, votes, "Wang")
    assert second.id != first.id
    votes.append(ranked_by_text(second, "Wang"))
    assert next_item(rows, votes, "Wang") is None
    assert progress(rows, votes, "Wang").skipped == 1
    again = next_item(rows, votes, "Wang", again=True)
    assert (again.id, again.seed, again.answers) == (first.id, first.seed, first.answers)
    votes.append(ranked_by_text(again, "Wang"))
    assert next_item(rows, votes, "Wang", again=True) is None


def test_going_back_opens_the_newest_vote_in_the_order_that_was_shown():
    rows = rankable(several(3))
    items, votes = ranked(rows, "Wang", 3)
    _, votes = ranked(rows, "Lin", 1, votes)
    newest = own_votes(rows, votes, "Wang")[-1]
    opened = item_of(newest, rows)
    assert (opened.key, opened.answers, opened.vote) == (items[-1].key, items[-1].answers, newest)
    corrected = ranked_by_text(items[0], "Wang")
    assert own_votes(rows, [*votes, corrected], "Wang")[-1] == corrected


def test_other_answers_to_a_question_are_ranked_anew():
    rows = rankable(several(1))
    _, votes = ranked(rows, "Wang", 1)
    assert next_item(rows, votes, "Wang") is None
    drawn_again = rankable([sampled(1, ["another answer", "one more"])])
    assert next_item(drawn_again, votes, "Wang").id == 1
    assert progress(drawn_again, votes, "Wang") == (0, 1, 0)


def test_nothing_but_the_file_of_votes_is_remembered(tmp_path):
    assert next_item(rankable(several(1)), read_votes(tmp_path / "votes.jsonl"), "Wang").id == 1
