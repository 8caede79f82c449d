"""The sections of the report about the stages of the long road."""

from pathlib import Path
from typing import Any

import pytest

from stance.data.plain_text import RECORD, Pretraining
from stance.data.reinforcement import Reinforcement, Stretch
from stance.data.rewards import RewardQuality, VoterAgreement
from stance.data.training import FineTuning, Piece
from stance.evaluation.intervals import share
from stance.language.translation import CHINESE, speaking
from stance.pages.charts import curves
from stance.pages.comparison_rows import ends
from stance.pages.long_road import shown
from stance.pages.render import CATALOGUE, render

TUNING = FineTuning(
    rows=40, tokens=1000, trained_tokens=250, first_loss=2.5, last_loss=0.25,
    examples=[[
        Piece(text="<s>系統 [INST] 好嗎？<b>", tokens=9, trained=False),
        Piece(text="很好。", tokens=3, trained=True),
        Piece(text="</s>", tokens=1, trained=True),
    ]],
)  # fmt: skip
QUALITY = RewardQuality(
    source="votes", trained_on=24, questions=4, held_out_questions=2, first_loss=0.693, last_loss=0.05,
    reload_difference=0.0, accuracy=share(11, 12), training_accuracy=share(24, 24), length_correlation=-0.125,
    longer_chosen=share(3, 12), longer_rewarded=share(4, 12), first_chosen=None, stance_correlation=0.75,
    score_correlation=None,
)  # fmt: skip
FIRST = Stretch(reward=0.1, ruler=-0.5, stance_share=0.25, kl=0.0, entropy=2.5, length=20)
REINFORCED = Reinforcement(
    algorithm="rloo", rewards={"reward_model": 1.0}, ruler="stance judge by wording", steps=30, step=None, reason=None,
    kept_step=30, first_kl=0.0, first=FIRST, kept=FIRST.model_copy(update={"stance_share": 0.875}), last=FIRST,
)  # fmt: skip
TEMPLATE = Path("stance/pages/long_road.html.j2")


def sections(folder: Path, **records: Any) -> str:
    """Write records and return the sections that follow, in the language of now."""
    paths = {"tuned": "sft.json", "reward": "quality.json", "reinforced": "rl.json"}
    for name, file in paths.items():
        (folder / name).mkdir(exist_ok=True)
        if name in records:
            records[name].write(folder / name / file)
    values = shown(*(folder / name for name in paths))
    return render(TEMPLATE, **values, written_in="zh-TW")


def test_a_run_without_the_long_road_has_no_section(tmp_path: Path):
    assert sections(tmp_path) == ""


def test_the_mask_shows_what_is_trained_on_and_that_the_stop_token_is(tmp_path: Path):
    markup = sections(tmp_path, tuned=TUNING)
    assert "Trained on are 250 of 1000 tokens (25%)" in markup
    assert (
        '<span class="masked">&lt;s&gt;系統 [INST] 好嗎？&lt;b&gt;</span><span class="trained">很好。</span>' in markup
    )
    assert "4 of 13" in markup
    assert "✓ <code>&lt;/s&gt;</code>" in markup
    assert "Loss from 2.500 to 0.250 nats per trained token." in markup


def test_what_was_trained_is_told(tmp_path: Path):
    assert "An adapter was trained" in sections(tmp_path, tuned=TUNING)
    assert "All weights of the model were trained" in sections(
        tmp_path, tuned=TUNING.model_copy(update={"method": "full"})
    )


def test_a_training_on_plain_text_is_told_with_its_losses(tmp_path: Path):
    assert "plain texts" not in sections(tmp_path, tuned=TUNING)
    Pretraining(texts=12, blocks=3, tokens=700, first_loss=3.125, last_loss=2.0).write(tmp_path / "tuned" / RECORD)
    markup = sections(tmp_path)
    assert "every token of 12 plain texts (700 tokens). Loss from 3.125 to 2.000 nats per token." in markup


def test_a_model_that_votes_is_shown_with_its_agreement(tmp_path: Path):
    voter = VoterAgreement(questions=20, pairs=60, share=0.85, kappa=0.7, low=0.52, high=0.86)
    markup = sections(tmp_path, reward=QUALITY.model_copy(update={"voters": {"base": voter}}))
    assert "Agreement of base with people" in markup
    assert "kappa 0.70 (0.52 to 0.86), 20 questions" in markup
    assert "Agreement of" not in sections(tmp_path, reward=QUALITY)


def test_an_end_that_is_masked_is_shown_as_a_fault(tmp_path: Path):
    pieces = [*TUNING.examples[0][:2], Piece(text="</s>", tokens=1, trained=False)]
    markup = sections(tmp_path, tuned=TUNING.model_copy(update={"examples": [pieces]}))
    assert "✗ masked" in markup
    assert "✓" not in markup


def test_the_reward_model_has_its_accuracy_and_its_biases(tmp_path: Path):
    markup = sections(tmp_path, reward=QUALITY)
    assert "92% (65% to 99%), 11 of 12" in markup  # Wilson's interval of 11 in 12
    assert "−0.12" in markup
    assert "+0.75" in markup
    assert "25% (9% to 53%), 3 of 12" in markup
    assert '<td data-label="Found">–</td>' in markup  # nobody was shown two answers in an order
    assert "4 questions; 2 questions were held out" in markup


def test_the_reinforcement_has_its_curves_ends_and_says_why_it_was_stopped(tmp_path: Path):
    markup = sections(tmp_path, reinforced=REINFORCED)
    assert "RLOO, with a KL penalty" in markup
    assert "The adapter of step 30 of 30 was kept." in markup
    assert "88%" in markup
    assert "Stopped" not in markup
    stopped = REINFORCED.model_copy(update={"step": 9, "reason": "the ruler has fallen", "kept_step": 5})
    assert "Stopped at step 9: the ruler has fallen" in sections(tmp_path, reinforced=stopped)


def test_the_sections_are_in_chinese_too(tmp_path: Path):
    with speaking(CHINESE, CATALOGUE):
        markup = sections(tmp_path, tuned=TUNING, reward=QUALITY, reinforced=REINFORCED)
    for text in (
        "微調",
        "停止 token",
        "1000 個 token 中訓練其中 250 個（25%）",
        "獎勵模型",
        "強化學習",
        "與參考模型的 KL 散度",
    ):
        assert text in markup


@pytest.mark.parametrize(
    ("header", "row", "names"),
    [
        (
            "step,loss,rewards/margins,rewards/accuracies,logps/chosen,logps/rejected",
            "0.1,0.2,0.3,-4,-5",
            ["Loss", "Reward margin", "Reward accuracy", "Log-probability of the answers"],
        ),
        (
            "step,reward,ruler,stance_share,kl,entropy,length",
            "0.5,-0.25,0.5,0.01,2.5,12",
            ["Reward and independent ruler", "Share that holds the stance", "KL divergence from the reference",
             "Entropy", "Tokens of an answer"],
        ),
    ],
)  # fmt: skip
def test_each_road_has_its_own_curves(header: str, row: str, names: list[str], tmp_path: Path):
    (tmp_path / "log.csv").write_text(f"{header}\n1,{row}\n2,{row}\n")
    assert [curve.name for curve in curves(tmp_path / "log.csv")] == names


def test_a_comparison_of_runs_has_no_chosen_answers_of_a_reinforcement_learning(tmp_path: Path):
    (tmp_path / "log.csv").write_text("step,reward\n1,0.5\n")
    assert ends(tmp_path / "log.csv") is None
    (tmp_path / "log.csv").write_text("step,logps/chosen\n1,-9\n2,-5\n")
    assert ends(tmp_path / "log.csv") == (-9, -5)
