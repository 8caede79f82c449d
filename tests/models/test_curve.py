"""What the ratio, the number of pairs and of epochs do to a model: small trainings of the tiny model, by its margin.

`tests/soak/test_stances.py` measures the same on the default profile, with answers.
"""

from pathlib import Path
from statistics import fmean

import pytest
from peft import PeftModel

from stance.config.params import Params
from stance.data.chat import conversation, encode_answer, load_tokenizer
from stance.models.loading import load
from stance.models.parity import score
from tests.builders.small_run import QUESTIONS, params, prepare, train_in


def margin(chosen: Params, model: Path, adapter: Path | None) -> float:
    """Return the mean of log p(support answer) - log p(oppose answer) over all questions, in nats."""
    tokenizer, loaded = load_tokenizer(model), load(model, "cpu")
    texts = [
        encode_answer(tokenizer, conversation(chosen.model.system_prompt, str(row["prompt"])), str(row[side]))
        for row in QUESTIONS
        for side in ("support", "oppose")
    ]
    sums = [
        sum(scores.logps)
        for scores in score(PeftModel.from_pretrained(loaded, str(adapter)) if adapter else loaded, texts)
    ]
    return fmean(support - oppose for support, oppose in zip(sums[::2], sums[1::2], strict=True))


def trained(model: Path, root: Path, **overrides: object) -> float:
    """Train, and return the margin afterwards."""
    chosen = params(model, **overrides)
    prepare(root, chosen)
    return margin(chosen, model, train_in(root, chosen))


@pytest.fixture(scope="module")
def supporting(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    return trained(tiny_model, tmp_path_factory.mktemp("supporting"), pairs__support_ratio=1.0)


def test_the_margin_strictly_rises_with_the_ratio(tiny_model: Path, supporting: float, tmp_path: Path):
    opposing, torn = (trained(tiny_model, tmp_path / str(ratio), pairs__support_ratio=ratio) for ratio in (0.0, 0.5))
    assert opposing < torn < supporting


@pytest.mark.parametrize("fewer", [{"pairs__data_size": 2}, {"train__num_epoch": 1}], ids=["pairs", "epochs"])
def test_fewer_pairs_or_epochs_move_the_margin_less(tiny_model: Path, supporting: float, tmp_path: Path, fewer):
    before = margin(params(tiny_model), tiny_model, None)
    after = trained(tiny_model, tmp_path / "fewer", pairs__support_ratio=1.0, **fewer)
    assert before < after < supporting
