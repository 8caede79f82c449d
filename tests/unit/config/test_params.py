"""What `params.yaml` and the profiles may say, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from stance.config.data import FolderDataset, GitDataset
from stance.config.models import HubBase, PackageBase
from stance.config.params import Params
from stance.config.profiles import PROFILES, compose
from stance.errors import InputError
from stance.machine.files import read_yaml

NAMES = sorted(path.stem for path in PROFILES.glob("*.yaml"))


def miniature(**overrides: object) -> Params:
    """Return the miniature profile; an override's `__` stands for the dot."""
    values = compose("miniature", {key.replace("__", "."): value for key, value in overrides.items()})
    return Params.parse(values, "test")


def test_there_are_profiles():
    assert {"miniature", "breeze-7b"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_is_valid(name):
    assert compose(name) == yaml.safe_load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8"))


def test_the_repository_holds_a_language_model_out_of_a_package():
    assert read_yaml(Path("params.yaml")) == compose("smollm2-135m")
    params = Params.load()
    assert isinstance(params.base, PackageBase)
    assert isinstance(params.dataset, FolderDataset)


def test_breeze_is_the_course_job():
    params = Params.parse(compose("breeze-7b"), "breeze-7b")
    assert (params.model.device, params.model.quantization) == ("cuda", "nf4")
    assert params.model.system_prompt == "回覆請少於20字"
    assert isinstance(params.base, HubBase)
    assert params.base.repo_id == "MediaTek-Research/Breeze-7B-Instruct-v0_1"
    train = params.train
    assert (train.r, train.lora_alpha, train.lora_dropout) == (64, 16, 0.1)
    assert (train.beta, train.learning_rate, train.warmup_steps) == (0.1, 2e-4, 0.1)
    assert train.per_device_train_batch_size * train.gradient_accumulation_steps == 8
    assert train.optim == "adamw_torch_fused"  # the notebook's, paged_adamw_8bit, stops the GPU once per parameter
    assert (train.loss_type, train.loss_weights) == (("sigmoid",), (1.0,))
    assert (train.num_epoch, params.pairs.data_size, params.pairs.order) == (3, 50, "first")
    assert params.answers.max_new_tokens == 200


@pytest.mark.parametrize(
    ("micro", "accumulated", "devices", "expected"),
    [(8, 1, 1, (8, 1)), (8, 1, 2, (4, 1)), (1, 8, 2, (1, 4)), (4, 2, 4, (2, 1)), (3, 4, 6, (1, 2)), (1, 8, 8, (1, 1))],
)
def test_devices_share_the_batch_and_the_global_batch_stays(micro, accumulated, devices, expected):
    split = {"global_batch_size": micro * accumulated, "per_device_train_batch_size": micro}
    changes = {f"train.{key}": value for key, value in split.items()}
    changes |= {"train.gradient_accumulation_steps": accumulated, "model.devices": devices}
    params = Params.parse(compose("breeze-7b", changes), "breeze-7b")
    shared = params.train.shared(params.model.devices)
    assert shared == expected
    assert shared[0] * shared[1] * devices == params.train.global_batch_size


def test_devices_that_cannot_share_the_batch_are_refused_with_those_that_can():
    with pytest.raises(
        InputError, match=r"model.devices is 3, which does not divide .*size 8; set it to one of 1, 2, 4, 8, "
    ):
        compose("breeze-7b", {"model.devices": 3})


def test_breeze_reads_the_course_data_at_its_commit():
    source = Params.parse(compose("breeze-7b"), "breeze-7b").dataset
    assert isinstance(source, GitDataset)
    assert source.commit == "4dcd0ed221ae785054413b13fa2230c5b7d56909"
    assert source.labelled_data_sha256 == "f40a9b15e577dc423ec457d6fba98c37999ea2e6da682a50f6bc184ad3012345"
    assert source.test_prompt_sha256 == "475782fd638f363a66b109bc5b28366e9ec572c23d7cbe7979cc365744d7fdbb"


@pytest.mark.parametrize("secret", ["https://ghp_abc@host/data.git", "https://me:abc@host/d", "ssh://me:abc@host/d"])
def test_a_password_in_the_address_of_the_data_is_refused_and_not_repeated(secret):
    with pytest.raises(InputError, match="dataset.url holds a password or a token") as refused:
        compose("breeze-7b", {"dataset.url": secret})
    assert "abc" not in str(refused.value)


@pytest.mark.parametrize(
    "address", ["git@github.com:me/data.git", "ssh://git@host/data", "https://host/a@b", "../data"]
)
def test_an_address_without_a_password_is_the_data_sets(address):
    assert compose("breeze-7b", {"dataset.url": address})["dataset"]["url"] == address


@pytest.mark.parametrize("url", ["http://127.0.0.1:80a0/v1", "http://[::1/v1", "http://host:99999/v1"])
def test_a_judge_without_a_host_and_port_is_refused(url):
    judge = {"source": "endpoint", "url": url, "model": "gpt"}
    with pytest.raises(InputError, match="evaluate.judge.url is .*expected one like http://host:8000/v1"):
        compose("miniature", {"evaluate.judge": judge})


@pytest.mark.parametrize("key", ["train.bata", "tarin", "pairs.suport_ratio", "model.system-prompt"])
def test_a_misspelt_key_is_refused_by_name_with_what_to_do(key):
    with pytest.raises(InputError, match=f"{key}: there is no such parameter; remove it or correct its spelling"):
        compose("miniature", {key: 1})


@pytest.mark.parametrize("ratio", [-0.1, 1.1, 50, "half", None])
def test_a_support_ratio_outside_0_to_1_is_refused(ratio):
    with pytest.raises(InputError, match=r"^profile miniature: pairs.support_ratio: .*\(found "):
        compose("miniature", {"pairs.support_ratio": ratio})


@pytest.mark.parametrize("ratio", [0, 1, 0.0, 1.0, "0.5"])
def test_the_ends_of_the_support_ratio_are_allowed(ratio):
    assert 0 <= miniature(pairs__support_ratio=ratio).pairs.support_ratio <= 1


def test_the_support_ratio_is_the_decimal_that_was_written(tmp_path):
    values = compose("miniature")
    text = yaml.safe_dump(values).replace("support_ratio: 1.0", "support_ratio: 0.29")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    assert Params.load(tmp_path / "params.yaml").pairs.support_ratio * 100 == 29
    assert 0.29 * 100 < 29


def test_an_override_replaces_one_value_and_no_other():
    changed = compose("miniature", {"pairs.support_ratio": 0.25, "seed": 7})
    assert (changed["pairs"].pop("support_ratio"), changed.pop("seed")) == (0.25, 7)
    untouched = compose("miniature")
    assert (untouched["pairs"].pop("support_ratio"), untouched.pop("seed")) == (1.0, 42)
    assert changed == untouched


@pytest.mark.parametrize("key", ["pears.data_size", "seed.value", "pairs.order.first", "train.r.r.r"])
def test_an_override_of_a_block_that_does_not_exist_is_refused(key):
    with pytest.raises(InputError, match=f"override {key}: there is no such block; expected a key like"):
        compose("miniature", {key: 1})


def test_an_unknown_profile_lists_the_known():
    with pytest.raises(InputError, match="no profile 'breeze'; expected one of .*breeze-7b.*miniature"):
        compose("breeze")


def test_a_bound_on_the_drift_needs_unrelated_prompts():
    with pytest.raises(InputError, match=r"train\.max_drift is 0\.3, but dataset\.side_effects names no folder"):
        miniature(train__max_drift=0.3)
    with pytest.raises(InputError, match=r"train\.max_drift: .*greater than 0"):
        miniature(train__max_drift=0)
    assert miniature().train.max_drift is None


def test_all_that_a_cpu_cannot_train_is_named_at_once():
    with pytest.raises(InputError, match=r"train.optim is adamw_8bit.*; answers.quantization is bitsandbytes"):
        miniature(answers__quantization="bitsandbytes", train__optim="adamw_8bit")


def test_a_misspelt_key_of_a_source_is_named_as_it_stands_in_the_file():
    with pytest.raises(InputError, match=r" dataset\.pth: there is no such parameter"):
        miniature(dataset__pth="data/sources/live_action")


def test_the_block_hub_is_named_as_it_stands_in_the_file():
    with pytest.raises(InputError, match=r"^profile miniature: hub\.push: .*\(found 'perhaps'\)"):
        compose("miniature", {"hub.push": "perhaps"})


def test_a_push_names_two_repositories_and_one_after_a_fine_tuning_of_all_weights():
    with pytest.raises(InputError, match=r"hub\.push is true and hub\.adapter_repo_id and .* are not two repositories"):
        miniature(hub__push=True, hub__merged_repo_id="someone/merged")
    with pytest.raises(InputError, match="are not two repositories; name them"):
        miniature(hub__push=True, hub__merged_repo_id="someone/one", hub__adapter_repo_id="someone/one")
    whole = {"hub.push": True, "sft": {"num_epoch": 1, "learning_rate": 2e-5, "method": "full", "conversations": None}}
    with pytest.raises(InputError, match=r"hub\.merged_repo_id is null; name the repository, like someone/"):
        compose("miniature", whole)
    assert compose("miniature", whole | {"hub.merged_repo_id": "someone/merged"})["hub"]["adapter_repo_id"] is None


@pytest.mark.parametrize("name", NAMES)
def test_no_profile_pushes_by_itself(name):
    assert not Params.parse(compose(name), name).hub.push


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "paged_adamw_8bit", "adamw_8bit", "paged_adamw_32bit"])
def test_a_gpu_optimiser_is_refused_on_a_cpu(optim):
    with pytest.raises(InputError, match=f"train.optim is {optim}, .* model.device is cpu; set train.optim to"):
        miniature(train__optim=optim)
    assert miniature(train__optim=optim, model__device="cuda").train.optim == optim


@pytest.mark.parametrize("weights", [[], [1.0], [1.0, 0.5, 0.5]])
def test_every_loss_needs_a_weight(weights):
    with pytest.raises(InputError, match=f"loss_type has 2 entries but loss_weights has {len(weights)}; give every"):
        miniature(train__loss_weights=weights)


def test_all_problems_are_named_at_once():
    with pytest.raises(InputError) as refused:
        compose("miniature", {"pairs.data_size": 0, "train.bata": 0.1, "model.device": "tpu", "seed": -1})
    assert all(key in str(refused.value) for key in ("pairs.data_size", "train.bata", "model.device", "seed"))
    assert "\n" not in str(refused.value)


def test_a_missing_value_is_named(tmp_path):
    values = compose("miniature")
    del values["train"]["beta"]
    with pytest.raises(InputError, match=r"^elsewhere: train.beta: field required$"):
        Params.parse(values, "elsewhere")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist; `make profile NAME=smollm2-135m` writes"),
        (b"seed: [1", "is not YAML: .*line 1.*; correct it"),
        (b"seed: \xff", "is not YAML"),
        (b"- seed", "holds a list; expected blocks"),
        (b"", "holds a NoneType; expected blocks"),
    ],
)
def test_a_file_that_holds_no_parameters_is_refused(tmp_path, content, problem):
    if content is not None:
        (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(InputError, match=f"params.yaml {problem}") as refused:
        Params.load(tmp_path / "params.yaml")
    assert "\n" not in str(refused.value)


def test_parameters_cannot_be_changed_afterwards():
    params = Params.load()
    with pytest.raises(ValidationError, match="frozen"):
        params.pairs.data_size = 3
    with pytest.raises(ValidationError, match="frozen"):
        params.seed = 3


def test_parsing_parameters_imports_no_torch():
    code = "import sys, stance.config.params; print(*{'torch', 'transformers', 'numpy'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_4_bit_answers_on_a_cpu_are_refused():
    with pytest.raises(InputError, match="answers.quantization is bitsandbytes, which vLLM supports only on a GPU"):
        miniature(answers__quantization="bitsandbytes")


def test_label_smoothing_wants_a_loss_that_has_it():
    with pytest.raises(InputError, match=r"label_smoothing is 0.1, but no loss of sigmoid, sft uses it; set it to 0"):
        compose("miniature", {"train.label_smoothing": 0.1})
    with pytest.raises(InputError, match=r"label_smoothing is 0, but the loss exo_pair needs more"):
        compose("miniature", {"train.loss_type": ["exo_pair"], "train.loss_weights": [1.0]})
    compose("miniature", {"train.label_smoothing": 0.1, "train.loss_type": ["robust", "sft"]})


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("params.yaml", "make profile NAME=smollm2-135m"),
        ("dvc.lock", "make repro"),
        ("vllm.yaml", "git checkout .*/vllm.yaml"),
    ],
)
def test_a_missing_file_is_named_with_the_command_that_writes_it(name, command, tmp_path):
    with pytest.raises(InputError, match=f"{name} does not exist; `{command}` writes it"):
        read_yaml(tmp_path / name)
