"""What the pre-flight refuses of the long road before anything expensive, one sentence each."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stance.config.params import Params
from stance.config.profiles import compose
from stance.data.questions import Question
from stance.data.samples import SampledAnswer, Samples, answer_hash, write_samples
from stance.data.votes import Score, Vote, append_vote
from stance.errors import InputError
from stance.preflight.checks import preflight
from stance.preflight.road import require_road

QUESTIONS = [Question(id=n, prompt=f"{n}?", support="yes", oppose="no") for n in range(1, 61)]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SAMPLE = {"num_answers": 4, "draws": 8, "temperature": 1.0, "top_p": 1.0, "max_similarity": 0.8}
BY_VOTES = {"sample": SAMPLE, "reward.source": "votes"}


def road(folder: Path, **changes: Any) -> str:
    values = compose("miniature-rlhf", {key.replace("__", "."): value for key, value in changes.items()})
    return require_road(Params.parse(values, "test"), QUESTIONS, folder, folder / "samples.jsonl")


def vote(prompt_id: int, texts: tuple[str, ...], ranks: list[int]) -> Vote:
    answers = [answer_hash(text) for text in texts]
    return Vote(prompt_id=prompt_id, answers=answers, ranks=ranks, by="somebody", at=NOW, seed=1)


def sampled(folder: Path, prompt_id: int = 1) -> None:
    answers = [SampledAnswer.of(text, "stop", [-1.0]) for text in ("good", "bad")]
    write_samples(folder / "samples.jsonl", [Samples(id=prompt_id, prompt="?", answers=answers, dropped=0)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "sft → reward → rl"),
        ({"sft": None}, "reward → rl"),
        ({"sft.num_epoch": 0}, "reward → rl"),
        ({"align.method": "dpo"}, "sft → train"),
        ({"reward": None, "rl.reward_model_weight": 0, "rl.stance_judge_weight": 1}, "sft → rl"),
    ],
)
def test_the_road_is_told(changes: dict[str, Any], words: str, tmp_path: Path):
    assert road(tmp_path, **changes) == words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sft.conversations": "nowhere.jsonl"}, "which does not exist; name a JSON Lines file"),
        (
            {"sft.plain_text": {"path": "nowhere.jsonl", "num_epoch": 1, "learning_rate": 1e-4}},
            "sft.plain_text.path is .*nowhere.jsonl, which does not exist",
        ),
        ({"rl.prompts_per_step": 64}, "rl.prompts_per_step is 64, and there are 50 questions; set it to at most 50"),
        ({"pairs.order": "both", "pairs.support_ratio": 0.5}, "the preference pairs prefer both stances of every"),
        (BY_VOTES, r"votes\.jsonl does not exist; run `dvc repro sample` and rank the answers, or set reward.source"),
    ],
)
def test_a_road_that_would_end_in_a_stage_is_refused(changes: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(InputError, match=message) as refused:
        road(tmp_path, **changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("cast", "message"),
    [
        (vote(9, ("good", "bad"), [1, 2]), "has votes on question 9, whose samples are deleted; bring them back"),
        (vote(1, ("good", "other"), [1, 2]), "ranks 1 unknown answers, the first of question 1"),
        (vote(1, ("good", "bad"), [1, 1]), "every one is a tie of all its answers, so that nothing is preferred"),
    ],
)
def test_votes_that_teach_nothing_are_refused(cast: Vote, message: str, tmp_path: Path):
    append_vote(tmp_path / "votes.jsonl", cast)
    road(tmp_path, **BY_VOTES)  # the answers are drawn in this run
    sampled(tmp_path)
    with pytest.raises(InputError, match=message):
        road(tmp_path, **BY_VOTES)


def test_a_ranking_of_one_answer_is_refused(tmp_path: Path):
    (tmp_path / "votes.jsonl").write_text(
        '{"prompt_id": 1, "answers": ["' + "a" * 64 + '"], "ranks": [1], "by": "x", "at": "2026-01-01T00:00:00Z",'
        ' "seed": 1}\n'
    )
    with pytest.raises(InputError, match="row 1: the row: a vote on 1 answer ranks nothing; expected at least 2"):
        road(tmp_path, **BY_VOTES)


def test_votes_on_the_answers_that_were_drawn_are_taken(tmp_path: Path):
    sampled(tmp_path)
    append_vote(tmp_path / "votes.jsonl", vote(1, ("good", "bad"), [1, 2]))
    assert road(tmp_path, **BY_VOTES) == "sft → reward → rl"
    for text, value in (("good", 2), ("bad", 1)):
        row = Score(prompt_id=1, answer=answer_hash(text), score=value, by="somebody", at=NOW)
        append_vote(tmp_path / "scores.jsonl", row)
    assert road(tmp_path, **(BY_VOTES | {"reward.source": "scores"})) == "sft → reward → rl"


def test_a_model_that_votes_without_people_beside_it_is_refused(tmp_path: Path):
    cast = vote(1, ("good", "bad"), [1, 2]).model_copy(update={"by": "base", "is_model": True})
    append_vote(tmp_path / "votes.jsonl", cast)
    with pytest.raises(InputError, match="base and people have ranked 0 questions in common; expected at least 20"):
        road(tmp_path, **BY_VOTES)


def test_the_preflight_has_a_row_for_the_road(tmp_path: Path):
    params = Params.parse(compose("miniature-rlhf"), "test")
    found = {row.check: row for row in preflight(params, tmp_path / "dataset", tmp_path / "base")}
    assert (found["road"].verdict, found["road"].found) == ("ok", "sft → reward → rl")
    short = Params.parse(compose("miniature"), "test")
    assert "road" not in {row.check for row in preflight(short, tmp_path / "dataset", tmp_path / "base")}
