"""Base and adapter in one engine: only where the adapter belongs to the base."""

from pathlib import Path

import pytest
import yaml

from stance.errors import InputError
from stance.machine.files import read_yaml
from stance.serving.candidate import from_run
from tests.builders.finished_run import write_lock, write_run


def test_an_adapter_of_fine_tuned_weights_is_not_served_on_the_base(tmp_path: Path):
    run = write_run(tmp_path / "run")
    values = read_yaml(run / "params.yaml") | {"sft": {"method": "full", "num_epoch": 1, "learning_rate": 2e-5}}
    (run / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    write_lock(run)
    with pytest.raises(InputError, match="serve the merged model, without --with-base"):
        from_run(run, with_base=True)
