"""A release measures again: what was edited together with its lock is refused by what the model itself says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from stance.config.params import Params
from stance.data.answers import read_answers
from stance.data.chat import conversation, encode, fingerprint, load_tokenizer
from stance.errors import InputError
from stance.machine.files import read_json, write_json, write_jsonl
from stance.models.base import Base, locate
from stance.models.loading import load
from stance.release.recomputation import ANSWERS, require_close, require_evaluation, require_model, require_sum
from stance.runs.finished import PIPELINE, FinishedRun
from tests.builders.finished_run import write_lock, write_run
from tests.builders.small_run import PROMPTS, merge_in, params, prepare, train_in


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model and answers were really made."""
    run = write_run(tmp_path_factory.mktemp("recomputed"))
    data, chosen = run / "data", params(tiny_model)
    for name in ("dataset", "adapter", "merged", "base"):
        shutil.rmtree(data / name)
    prepare(data, chosen)
    adapter = train_in(data, chosen)
    merge_in(data, chosen, adapter)
    fingerprint(load_tokenizer(data / "merged")).write(data / "merge/fingerprint.json")
    write_jsonl(run / ANSWERS, answers(data / "merged", Params.load(run / "params.yaml").model.system_prompt))
    write_lock(run)
    return run


def answers(folder: Path, system_prompt: str) -> list[dict[str, object]]:
    """Return the greedy answers of a model, cut off after eight tokens."""
    tokenizer, model = load_tokenizer(folder), load(folder, "cpu")
    rows = []
    for row in PROMPTS:
        ids = encode(tokenizer, conversation(system_prompt, str(row["prompt"])))
        made = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=8)[0, len(ids) :]
        text = tokenizer.decode(made, skip_special_tokens=True).strip()
        rows.append({**row, "response": text, "tokens": 8, "finish_reason": "length"})
    return rows


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file(tensors, path, {"format": "pt"})


def change_one_weight(run: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[next(name for name in tensors if "q_proj" in name)][0, 0] += 0.5

    [path] = (run / "data/merged").glob("*.safetensors")
    edit_weights(path, change)


def zero_the_adapter(run: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor.zero_()

    edit_weights(run / "data/adapter/adapter_model.safetensors", change)


def exchange_the_configuration(run: Path) -> None:
    path = run / "data/merged/generation_config.json"
    path.write_text(json.dumps(read_json(path) | {"temperature": 2.0}))


def make_up_log_probabilities(run: Path) -> None:
    path = run / "data/merge/logps.json"
    rows = read_json(path)
    write_json(path, {row: {side: [0.0] * len(logps) for side, logps in sides.items()} for row, sides in rows.items()})


def make_up_an_answer(run: Path) -> None:
    rows = [row.model_dump() for row in read_answers(run / ANSWERS)]
    write_jsonl(run / ANSWERS, [*rows[:-1], rows[-1] | {"response": "真人版更精彩、更動人，一定要看。"}])


def measure(run: Path) -> None:
    finished = FinishedRun.read(run)
    require_sum(finished, "cpu")
    require_model(finished, "cpu")


def test_a_run_that_nobody_edited_passes(run):
    assert Base.read(run / "data/base").files
    measure(run)


def test_the_weights_of_a_fine_tuning_take_the_place_of_the_base(run):
    """The fine-tuned model here is the base itself; then one of its weights is another."""
    tuned = Path(shutil.copytree(locate(run / "data/base"), run / "data/sft/model"))
    require_sum(FinishedRun.read(run), "cpu")

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.embed_tokens.weight"][0, 0] += 0.5

    [path] = tuned.glob("*.safetensors")
    edit_weights(path, change)
    with pytest.raises(
        InputError, match="embed_tokens.weight in .* is not the base's weight plus the adapter's change"
    ):
        require_sum(FinishedRun.read(run), "cpu")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (change_one_weight, "q_proj.weight in .*model.safetensors is not the base's weight plus the adapter's change"),
        (zero_the_adapter, "_proj.weight in .*model.safetensors is not the base's weight plus the adapter's change"),
        (exchange_the_configuration, "generation_config.json is not the file of the base model"),
        (make_up_log_probabilities, "nats per token .* from data/merge/logps.json; expected at most"),
        (make_up_an_answer, "aligned.jsonl, answer 3 is not one that the merged model gives"),
    ],
)
def test_what_was_edited_together_with_the_lock_is_refused_by_name(run, fault, words):
    fault(run)
    write_lock(run)
    FinishedRun.read(run)  # every hash agrees
    with pytest.raises(InputError, match=words):
        measure(run)


EVALUATION = """
stages:
  classifier:
    cmd: tasks/python stage.py data/classifier
  evaluate:
    cmd: tasks/python stage.py data/classifier data/evaluation
"""
STAGE = """
import json, pathlib, sys
*judge, out = map(pathlib.Path, sys.argv[1:])
name = json.loads((judge[0] / "judge.json").read_text()) if judge else "as taught"
out.mkdir()
(out / ("gates.json" if judge else "judge.json")).write_text(json.dumps(name))
"""


def test_an_evaluation_is_repeated_with_a_judge_that_is_taught_anew(tmp_path):
    """The run's own judge was edited, and the evaluation is what this judge gives."""
    (tmp_path / "stage.py").write_text(STAGE)
    outputs = {"classifier": ["data/classifier"], "evaluate": ["data/evaluation/gates.json"]}
    contents = {PIPELINE: EVALUATION.encode()}
    run = SimpleNamespace(folder=tmp_path, contents=contents, lock=SimpleNamespace(outputs=outputs))
    for judge in ("as taught", "edited"):
        write_json(tmp_path / "data/classifier/judge.json", judge)
        write_json(tmp_path / "data/evaluation/gates.json", judge)
        if judge == "as taught":
            require_evaluation(run)
    with pytest.raises(InputError, match=r"gates\.json is 'edited', and `evaluate` gives 'as taught' now"):
        require_evaluation(run)


def test_figures_are_alike_within_a_tolerance_and_are_named_where_they_are_not():
    recorded = {"adherence": {"share": 0.9, "count": 18}, "rows": [{"stance": "support"}], "drift": None}
    require_close("metrics.json", recorded, recorded | {"adherence": {"share": 0.905, "count": 18}})
    with pytest.raises(InputError, match=r"^metrics.json: adherence.count is '18', and `evaluate` gives '17' now"):
        require_close("metrics.json", recorded, recorded | {"adherence": {"share": 0.9, "count": 17}})
    with pytest.raises(InputError, match=r"^metrics.json: rows.1.stance is 'support'"):
        require_close("metrics.json", recorded, recorded | {"rows": [{"stance": "oppose"}]})
    with pytest.raises(InputError, match=r"^metrics.json: rows is "):
        require_close("metrics.json", recorded, recorded | {"rows": []})
