"""Every figure of the evaluation against one worked out by hand."""

import pytest

from stance.data.answers import Answer, read_answers
from stance.data.pairs import pair
from stance.data.preferences import Pair
from stance.data.questions import Question
from stance.errors import InputError
from stance.evaluation.classifier import Verdict
from stance.evaluation.measures import adherence, chosen_fall, margins, responses, rewards, served_drift, shares


def verdicts(support: int, neutral: int, oppose: int) -> list[Verdict]:
    return (
        [Verdict("support", 0.9)] * support + [Verdict("neutral", 0.0)] * neutral + [Verdict("oppose", -0.9)] * oppose
    )


def directed(ident: int, preferred: str) -> Pair:
    question = Question(id=ident, prompt="好嗎？", support="好。", oppose="不好。")
    return pair(question, None, support=preferred == "support", system_prompt="請簡短")


def preferring(*stances: str) -> list[Pair]:
    return [directed(number, stance) for number, stance in enumerate(stances, start=1)]


def test_shares_are_fractions_of_the_answers():
    assert shares(verdicts(5, 1, 4)).model_dump() == {"support": 0.5, "neutral": 0.1, "oppose": 0.4}
    assert shares(verdicts(0, 0, 3)).model_dump() == {"support": 0.0, "neutral": 0.0, "oppose": 1.0}


def test_twenty_of_twenty_leave_room_for_doubt():
    found = adherence(verdicts(20, 0, 0), 1.0)
    assert found.share == 1.0
    assert found.low == pytest.approx(1 / (1 + 1.959964**2 / 20))  # Wilson's lower end where all succeed
    assert found.low == pytest.approx(0.839, abs=5e-4)
    assert found.high == pytest.approx(1.0)


def test_sixteen_of_twenty_have_wilsons_interval():
    found = adherence(verdicts(16, 1, 3), 1.0)
    # z² = 3.841459: (0.8 + z²/40 ± z·√(0.8·0.2/20 + z²/1600)) / (1 + z²/20) = (0.896036 ± 0.199887) / 1.192073
    assert (found.low, found.high) == (pytest.approx(0.58398, abs=1e-5), pytest.approx(0.91934, abs=1e-5))


@pytest.mark.parametrize(
    ("ratio", "stance", "mixed", "share"),
    [
        (1.0, "support", False, 0.5),
        (0.0, "oppose", False, 0.3),
        (0.3, "oppose", True, 0.3),
        (0.7, "support", True, 0.5),
    ],
)
def test_adherence_is_to_the_stance_that_most_pairs_prefer(ratio, stance, mixed, share):
    found = adherence(verdicts(5, 2, 3), ratio)
    assert (found.stance, found.mixed, found.share) == (stance, mixed, share)


def test_at_one_half_there_is_no_stance_to_adhere_to():
    found, chosen = (adherence(verdicts(5, 2, 3), ratio).model_dump() for ratio in (0.5, 1.0))
    assert found == dict.fromkeys(chosen) | {"mixed": True}


def test_a_share_says_of_how_many_it_is():
    found = adherence(verdicts(16, 1, 3), 1.0)
    assert (found.count, found.total) == (16, 20)


LOGPS = {
    "base": {
        "1": {"support": [-1.0, -2.0], "oppose": [-4.0]},  # 1
        "2": {"support": [-5.0], "oppose": [-2.0]},  # -3
        "3": {"support": [-1.0], "oppose": [-1.0]},  # 0
    },
    "aligned": {
        "1": {"support": [-1.0, -0.5], "oppose": [-6.5]},  # 5
        "2": {"support": [-1.0], "oppose": [-4.0]},  # 3
        "3": {"support": [-1.0], "oppose": [-3.0]},  # 2
    },
}


def test_margins_are_sums_over_tokens_and_means_over_questions():
    rows = preferring("support", "support", "support")
    assert margins(LOGPS, {"trained": rows[:2], "held_out": rows[2:]}).model_dump() == {
        "trained": {"base": -1.0, "aligned": 4.0, "change": 5.0},
        "held_out": {"base": 0.0, "aligned": 2.0, "change": 2.0},
    }


def test_nothing_held_out_has_no_margin():
    assert margins(LOGPS, {"trained": preferring("support"), "held_out": []}).held_out is None


def test_a_reward_is_beta_times_what_training_added_to_the_chosen_answer():
    """Support gained 4, 6 and 2 nats on oppose: 0.4, 0.6 and 0.2 at beta 0.1, and less where oppose was chosen."""
    found = rewards(LOGPS, {"trained": preferring("support", "oppose", "support"), "held_out": []}, beta=0.1)
    assert found.held_out is None
    assert found.trained
    assert found.trained.share == pytest.approx(2 / 3)
    assert found.trained.margin == pytest.approx((0.4 - 0.6 + 0.2) / 3)


def test_a_question_that_stands_in_both_directions_has_no_reward():
    both = preferring("support", "support", "oppose")
    twice = [*both, directed(1, "oppose"), *both[1:]]
    found = rewards(LOGPS, {"trained": twice, "held_out": []}, beta=0.1).trained
    assert found
    assert (found.count, found.total) == (1, 2)  # of 2 support is chosen and gained, of 3 oppose and it lost
    assert rewards(LOGPS, {"trained": twice[::3], "held_out": []}, beta=0.1).trained is None


def test_served_drift_is_over_all_tokens_of_all_texts():
    merged = {"1": {"support": [-1.0, -2.0], "oppose": [-3.0]}, "2": {"support": [-1.0]}}
    served = {"1": {"support": [-1.5, -2.0], "oppose": [-2.0]}, "2": {"support": [-0.5]}}
    assert served_drift(merged, served).model_dump() == {"mean": 0.5, "worst": 1.0}  # 0.5, 0, 1, 0.5


def test_served_drift_refuses_texts_of_another_length():
    with pytest.raises(ValueError, match="zip"):
        served_drift({"1": {"support": [-1.0, -2.0]}}, {"1": {"support": [-1.0]}})


@pytest.mark.parametrize(
    ("chosen", "fall"),
    [
        ([0.0, -0.2, -0.4, -1.0, -2.0, -3.0], 12.5),  # 2.5 / 0.2
        ([0.0, -9.9, -9.9, -9.9, 0.6], -3.0),
        ([0.0, -0.3], 1.5),
        ([0.0], 0.0),
    ],
)
def test_chosen_fall_is_that_of_the_last_third_against_the_reference_in_nats(tmp_path, chosen, fall):
    """`rewards/chosen` is beta times the difference, and beta is 0.2 here."""
    rows = "".join(f"{step},0.5,{value}\n" for step, value in enumerate(chosen, start=1))
    (tmp_path / "log.csv").write_text("step,loss,rewards/chosen\n" + rows)
    assert chosen_fall(tmp_path / "log.csv", 0.2) == pytest.approx(fall)


def test_responses_pair_the_answers_of_both_models():
    before, after = (
        Answer(id=3, prompt="好嗎？", response=text, tokens=2, finish_reason="stop") for text in ("難說。", "好。")
    )
    assert [row.model_dump() for row in responses([before], [after])] == [
        {
            "id": 3,
            "prompt": "好嗎？",
            "response_from_original_model": "難說。",
            "response_from_trained_model": "好。",
        }
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "base.jsonl holds no answers"),
        ('{"id": 1, "prompt": "？"}\n', "base.jsonl, row 1: response: field required; a row needs id, prompt"),
        ("[1,\n", "base.jsonl, row 1: the row: invalid json"),
        (None, "base.jsonl does not exist"),
    ],
)
def test_answers_that_are_none_are_a_sentence(tmp_path, text, found):
    if text is not None:
        (tmp_path / "base.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=found):
        read_answers(tmp_path / "base.jsonl")


def test_a_reinforcement_learning_has_no_chosen_answers(tmp_path):
    (tmp_path / "log.csv").write_text("step,reward\n1,0.5\n")
    assert chosen_fall(tmp_path / "log.csv", 0.2) is None
