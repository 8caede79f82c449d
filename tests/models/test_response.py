"""How far settings move a tiny model, in seconds; tests/soak/test_training.py has the miniature's whole curve."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from peft import PeftModel

from stance.data.chat import conversation, encode_answer, load_tokenizer
from stance.models.loading import load
from stance.models.parity import score
from tests.builders.small_run import QUESTIONS, params, prepare, train_in


@pytest.fixture(scope="module")
def margin(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., float]:
    """Train, and return by how many nats the model prefers support; without settings, those of the base."""
    tokenizer = load_tokenizer(tiny_model)
    sides = [
        [
            encode_answer(tokenizer, conversation("回覆請少於20字", str(row["prompt"])), str(row[side]))
            for row in QUESTIONS
        ]
        for side in ("support", "oppose")
    ]

    @cache
    def trained(**settings: Any) -> float:
        model = load(tiny_model, "cpu")
        if settings:
            chosen = params(tiny_model, train__learning_rate=1e-3, **{"train__num_epoch": 6} | settings)
            folder = tmp_path_factory.mktemp("response")
            prepare(folder, chosen)
            model = PeftModel.from_pretrained(model, train_in(folder, chosen))
        support, oppose = (fmean(sum(scores.logps) for scores in score(model, texts)) for texts in sides)
        return support - oppose

    return trained


def test_the_margin_strictly_rises_with_the_ratio(margin):
    margins = [margin(pairs__support_ratio=ratio) for ratio in (0.0, 0.5, 1.0)]
    assert all(before < after for before, after in pairwise(margins)), margins


def test_fewer_questions_or_epochs_move_the_model_less(margin):
    base, whole = margin(), margin(pairs__support_ratio=1.0)
    few = margin(pairs__support_ratio=1.0, pairs__data_size=2)
    brief = margin(pairs__support_ratio=1.0, train__num_epoch=1)
    assert base < few < whole
    assert base < brief < whole
