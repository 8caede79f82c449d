"""Reinforcement learning whose answers vLLM draws: the engine follows the policy, and one that does not is named."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stance.data.noise import UNMEASURED
from stance.data.training import Joint
from stance.evaluation.gates import MAX_ENGINE_DRIFT, joint_gates
from tests.builders.small_run import sharpened

TRAINING = """
import json, shutil, sys
from pathlib import Path
from stance.data.chat import load_tokenizer
from stance.evaluation.reinforcement import drawer
from stance.training.rl import Part, reinforce
from tests.builders.small_run import params
from tests.models.test_rl import PROMPTS, digits, options, variety

model, out, stale = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "stale"
chosen, tokenizer, settings = params(model), load_tokenizer(model), options(use_vllm=True)
with drawer(model, None, tokenizer, PROMPTS, chosen.model, chosen.answers, settings, 1, out) as draw:
    first = []

    def drawn(policy, prompts):
        if not first:
            first.append({name: value.clone() for name, value in policy.named_parameters() if "lora" in name})
        if not stale:
            return draw(policy, prompts)
        now = {name: value.data for name, value in policy.named_parameters() if "lora" in name}
        for name, value in policy.named_parameters():
            if name in first[0]:
                value.data = first[0][name]
        try:
            return draw(policy, prompts)
        finally:
            for name, value in policy.named_parameters():
                if name in now:
                    value.data = now[name]

    parts = [Part("digits", 1.0, digits)]
    trained = reinforce(
        model, None, tokenizer, PROMPTS, parts, variety, chosen.model, settings, 1, out / "log.csv", draw=drawn
    )
(out / "rows.json").write_text(json.dumps(trained.rows))
"""


def train(model: Path, out: Path, engine: str) -> list[dict[str, Any]]:
    """Train in a process of its own, because an engine keeps its memory until its process ends."""
    subprocess.run([sys.executable, "-c", TRAINING, str(model), str(out), engine], check=True, timeout=300)
    assert {path.name for path in out.iterdir()} == {"log.csv", "rows.json"}
    rows: list[dict[str, Any]] = json.loads((out / "rows.json").read_text())
    return rows


@pytest.fixture(scope="module")
def sharp_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharpened(tiny_model, tmp_path_factory.mktemp("sharp"))


def test_the_engine_follows_the_policy_in_4_bits(sharp_model: Path, tmp_path: Path):
    """The policy leaves its reference, and the engine is at most the noise of bf16 away from it in every step."""
    rows = train(sharp_model, tmp_path, "fresh")
    assert len(rows) == 12
    assert sum(row["reward"] for row in rows[-3:]) > sum(row["reward"] for row in rows[:3]) + 0.9
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["kl"] > 0.05
    assert max(abs(row["engine/drift"]) for row in rows) <= MAX_ENGINE_DRIFT / 2
    assert 0 < rows[0]["completions/mean_length"] <= 12


def test_an_engine_that_keeps_an_old_adapter_misses_its_gate(sharp_model: Path, tmp_path: Path):
    rows = train(sharp_model, tmp_path, "stale")
    drift = max((row["engine/drift"] for row in rows), key=abs)
    [gate] = joint_gates(UNMEASURED, Joint(engine=drift))
    assert (gate.name, gate.passed) == ("engine", False)
