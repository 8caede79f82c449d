"""Rows for training elsewhere: TRL's pairs, KTO's labels, and the linter on the pairs that follow from votes."""

from stance.ranking.items import rankable, seed_of, shown
from stance.ranking.pairs import known_votes, lint, pairs_of
from stance.ranking.rows import kto_rows, preference_rows
from tests.builders.ranked import ranked_by_text, sampled, several, vote_on

[ROW] = rankable(several(1))
ITEM = shown(ROW, seed_of("Wang", 1, 0))
TEXTS = [answer.text for answer in ITEM.answers]
SYSTEM = "Be brief."


def contents(rows, key):
    return [row[key][0]["content"] for row in rows]


def test_a_ranking_of_three_gives_three_rows_of_messages():
    rows = preference_rows([vote_on(ITEM, [2, 1, 3], "Wang")], [ROW], SYSTEM)
    assert {*zip(contents(rows, "chosen"), contents(rows, "rejected"), strict=True)} == {
        (TEXTS[1], TEXTS[0]), (TEXTS[1], TEXTS[2]), (TEXTS[0], TEXTS[2])
    }  # fmt: skip
    assert rows[0]["prompt"] == [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ROW.prompt}]
    assert rows[0].keys() == {"prompt", "chosen", "rejected"}


def test_kto_labels_the_best_and_the_worst_answers():
    rows = kto_rows([vote_on(ITEM, [2, 1, 3], "Wang")], [ROW], SYSTEM)
    assert [*zip(contents(rows, "completion"), (row["label"] for row in rows), strict=True)] == [
        (TEXTS[1], True), (TEXTS[2], False)
    ]  # fmt: skip
    bad = kto_rows([vote_on(ITEM, [1, 1, 1], "Wang", all_bad=True)], [ROW], SYSTEM)
    assert [row["label"] for row in bad] == [False] * 3
    assert kto_rows([vote_on(ITEM, [1, 1, 1], "Wang")], [ROW], SYSTEM) == []


def test_votes_on_other_answers_are_left_out():
    vote = vote_on(ITEM, [2, 1, 3], "Wang")
    assert known_votes([vote], [ROW]) == [vote]
    assert known_votes([vote], [sampled(1, "ab")]) == known_votes([vote], [sampled(2, TEXTS)]) == []


def test_the_linter_sees_that_the_longer_answer_always_wins():
    rows = [sampled(n, [f"a long answer number {n} " * 3, "b short"]) for n in range(1, 6)]
    votes = [ranked_by_text(shown(row, 0), "Wang") for row in rows]
    checks = [warning.check for warning in lint(pairs_of(votes, rows, SYSTEM), SYSTEM)]
    assert "length" in checks
