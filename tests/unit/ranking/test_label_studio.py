"""Label Studio's JSON: what goes out comes back, what its users export is read, and what is wrong is named."""

import json

import pytest

from stance.errors import InputError
from stance.ranking.items import rankable, seed_of, shown
from stance.ranking.label_studio import exported, imported
from tests.builders.ranked import several, vote_on

ROWS = rankable(several(4))


def item(number: int, voter: str = "Wang"):
    return shown(ROWS[number], seed_of(voter, ROWS[number].id, 0))


def task(result, **changes):
    """Return a task as Label Studio exports it."""
    row = ROWS[0]
    items = [{"id": answer.sha256, "title": "", "body": answer.text} for answer in row.answers]
    annotation = {"id": 7, "completed_by": 3, "created_at": "2026-01-02T03:04:05.678Z", "lead_time": 4.5}
    data = {"prompt": row.prompt, "items": items}
    return {"id": 1, "data": data, "project": 1, "annotations": [annotation | {"result": result} | changes]}


def ranker(value):
    return {"from_name": "rank", "to_name": "answers", "type": "ranker", "value": {"ranker": value}}


HASHES = [answer.sha256 for answer in ROWS[0].answers]
A, B, C = HASHES


def test_votes_come_back_as_they_went_out():
    votes = [
        vote_on(item(0), [2, 1, 3], "Wang", reason="更有說服力", seconds=3.5),
        vote_on(item(1), [1, 2, 2], "Wang"),
        vote_on(item(1, "Lin"), [1, 1, 1], "Lin", all_bad=True),
        vote_on(item(2), [], "Wang", skipped=True),
        vote_on(item(2, "base"), [3, 2, 1], "base", is_model=True),
    ]
    tasks = json.loads(json.dumps(exported(votes, ROWS)))
    assert imported(tasks, ROWS, "votes.json") == votes
    assert [len(row["annotations"]) for row in tasks] == [1, 1, 1, 1, 0, 0]
    assert [row["model_version"] for row in tasks[4]["predictions"]] == ["base"]
    assert tasks[-1]["data"]["prompt"] == ROWS[3].prompt


@pytest.mark.parametrize(
    ("value", "ranks"),
    [
        ({"rank": [C, A, B]}, [2, 3, 1]),
        ({"1": [B], "2": [A, C]}, [2, 1, 2]),
        ({"2": [A], "10": [C], "1": [B]}, [2, 1, 3]),
        ({"1": [B], "_": [A, C]}, [2, 1, 2]),
        ({"rank": [B]}, [2, 1, 2]),
    ],
)
def test_a_list_or_buckets_give_the_ranks(value, ranks):
    [vote] = imported([task([ranker(value)])], ROWS, "votes.json")
    assert (vote.ranks, vote.answers, vote.by, vote.seconds) == (ranks, HASHES, "Label Studio 3", 4.5)
    assert (vote.prompt_id, vote.is_model) == (ROWS[0].id, False)


def test_an_answer_without_its_hash_is_recognised_by_its_text():
    row = task([ranker({"rank": ["x", "y", "z"]})], completed_by={"email": "lin@example.org"})
    for entry, ident in zip(row["data"]["items"], "zyx", strict=True):
        entry["id"] = ident
    [vote] = imported([row], ROWS, "votes.json")
    assert (vote.answers, vote.ranks, vote.by) == (HASHES, [3, 2, 1], "lin@example.org")


def test_a_cancelled_annotation_is_a_skipped_question():
    [vote] = imported([task([], was_cancelled=True)], ROWS, "votes.json")
    assert (vote.skipped, vote.ranks) == (True, [])


@pytest.mark.parametrize(
    ("tasks", "problem"),
    [
        ({"tasks": []}, r"votes.json is no list of tasks; expected Label Studio's export"),
        ([{"id": 1}], r"votes.json, task 1: data: field required; expected Label Studio's export"),
        ([task([])], "task 1 has no result of a Ranker"),
        ([task([ranker({"best": [A], "worst": [B]})])], "has a bucket named 'best'; expected buckets named 1, 2, 3"),
        ([task([ranker({"rank": [A, "nobody"]})])], "ranks the item 'nobody', which is not in its list"),
        ([task([ranker({"rank": [A]})], created_at="2026-01-02T03:04:05")], "should have timezone info"),
        ([task([{"type": "ranker"}])], "task 1 has no result of a Ranker"),
    ],
)
def test_what_is_no_export_of_rankings_is_named(tasks, problem):
    with pytest.raises(InputError, match=problem):
        imported(tasks, ROWS, "votes.json")


def test_an_answer_or_a_question_that_is_not_among_the_samples_is_named():
    row = task([ranker({"rank": [A, B, C]})])
    row["data"]["items"][0] = {"id": "x", "body": "another answer"}
    with pytest.raises(InputError, match=r"ranks the answer 'another answer', which is not among the samples"):
        imported([row], ROWS, "votes.json")
    with pytest.raises(InputError, match="is about the question .*, which has no samples"):
        imported([task([ranker({"rank": [A, B, C]})])], ROWS[1:], "votes.json")
