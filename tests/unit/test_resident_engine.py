"""The figures of one engine for many adapters; tests/soak/test_benchmarks.py runs the benchmark as a whole."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.resident_engine import apart, scaled, summary


def result(*logps: float, **more: Any) -> dict[str, Any]:
    """Scores of one text, and two answers."""
    return {"logps": [list(logps)], "answers": [[1, 2], [3]], **more}


def test_results_are_compared_token_by_token_and_answer_by_answer():
    """Differences of 0.1 and 0.3 nats; the second of two answers is another one."""
    found = apart(result(-1.0, -2.0), result(-1.1, -1.7) | {"answers": [[1, 2], [4]]})
    assert found["mean"] == pytest.approx(0.2)
    assert found["worst"] == pytest.approx(0.3)
    assert (found["tokens"], found["equal"], found["answers"]) == (2, 1, 2)


def test_half_an_adapter_makes_half_of_the_change(tmp_path: Path):
    whole = tmp_path / "whole"
    whole.mkdir()
    weights = {"q.lora_A.weight": torch.tensor([[3.0]]), "q.lora_B.weight": torch.tensor([[2.0]])}
    save_file(weights, whole / "adapter_model.safetensors")
    (whole / "adapter_config.json").write_text("{}", encoding="utf-8")
    half = load_file(scaled(whole, tmp_path / "half", 0.5) / "adapter_model.safetensors")
    assert {key: value.item() for key, value in half.items()} == {"q.lora_A.weight": 3, "q.lora_B.weight": 1}


@pytest.mark.parametrize(("drifted", "within"), [(0.29, True), (0.31, False)])
def test_an_adapter_may_be_three_roundings_from_the_merged_model(drifted: float, within: bool):
    """The floor is 0.1, so the bound is 0.3 in the mean. Of a sweep of two each is merged (20 s) and asked (30 s)."""
    lora = result(-1.0 - drifted, since_start=25.0)
    found = {
        "resident": {
            "base": result(-1.0), "base_again": result(-1.0), "adapter_again": lora,
            "adapters": [lora, result(-1.0, since_start=27.0)],
        },
        "exchanged": {"adapters": [result(-1.0), result(-1.0, since_start=21.0)], "adapter_again": result(-1.0)},
        "merge": {"logps": [[-1.0]], "since_start": 20.0, "floor": {"mean": 0.1, "worst": 0.1}},
        "of_merged": {"adapter": result(-1.0, since_start=30.0), "backwards": result(-1.0)},
    }  # fmt: skip
    totals = summary(found, 2)
    assert totals["within"] is within
    assert totals["sweep"] == {"exchanged": 21.0, "resident": 27.0, "today": 2 * (20 + 30) + 30}
