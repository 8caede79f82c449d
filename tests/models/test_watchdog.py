"""Real trainings of a tiny model that the watchdog stops."""

import json
import re
from pathlib import Path

from tests.builders.small_run import params, prepare, train_in


def test_a_training_whose_loss_is_no_number_is_stopped(tiny_model: Path, tmp_path: Path):
    chosen = params(tiny_model, train__learning_rate=1e30, train__num_epoch=8)
    prepare(tmp_path, chosen)
    train_in(tmp_path, chosen)
    found = json.loads((tmp_path / "adapter-log/watchdog.json").read_text())
    assert re.fullmatch(r"(loss|rewards/chosen|rewards/margins) is -?(nan|inf)", found["found"])
    assert found["step"] < 16


def test_a_training_that_is_stopped_keeps_its_adapter_its_log_and_the_reason(tiny_model: Path, tmp_path: Path):
    """On this model the margin passes 0.2 halfway, far below what an explosion is."""
    found = {}
    for name, bound in (("free", 30.0), ("stopped", 0.2)):
        chosen = params(tiny_model, train__max_margin=bound, train__num_epoch=8)
        prepare(tmp_path / name, chosen)
        adapter = train_in(tmp_path / name, chosen)
        assert (adapter / "adapter_model.safetensors").exists()
        found[name] = json.loads((tmp_path / name / "adapter-log/watchdog.json").read_text())
    assert found["free"] == {"found": None, "step": None, "steps": 16}
    assert found["stopped"]["found"].endswith("above 0.2")
    assert found["stopped"]["step"] < 16
    logged_steps = (tmp_path / "stopped/adapter-log/log.csv").read_text().splitlines()[1:]
    assert len(logged_steps) == found["stopped"]["step"]
