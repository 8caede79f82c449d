"""The launch form: ranges and descriptions of the parameters, empty means as in the profile, and wrong values named."""

from pathlib import Path

import pytest
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flows.align import align
from flows.settings import Settings
from stance.config.profiles import compose
from stance.errors import InputError
from stance.machine.files import read_yaml

PARAMS = Path("params.yaml")


def test_the_form_has_the_ranges_of_the_parameters():
    fields = Settings.model_json_schema()["properties"]
    assert (fields["support_ratio"]["minimum"], fields["support_ratio"]["maximum"]) == (0, 1)
    assert fields["beta"]["exclusiveMinimum"] == 0
    assert fields["seed"]["minimum"] == 0
    assert fields["profile"]["enum"] == [
        "breeze-7b", "llama-3-8b", "miniature", "miniature-rlhf", "qwen-0.5b", "smollm2-135m", "smollm2-135m-rlhf"
    ]  # fmt: skip


def test_a_field_shows_its_range_and_its_present_value(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("pairs: {support_ratio: 0.25}\nseed: 7\n")
    fields = Settings.model_json_schema()["properties"]
    assert fields["support_ratio"]["description"].endswith("Range: at least 0 and at most 1. Now in params.yaml: 0.25.")
    assert fields["seed"]["description"].endswith("Now in params.yaml: 7.")
    assert "Now" not in fields["beta"]["description"]


def test_an_edited_value_stands_beside_the_committed_one_with_which_a_run_starts(tmp_path, monkeypatch, git):
    folder = tmp_path / "part-of-a-repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("params.yaml").write_text("pairs: {support_ratio: 1.0}\nseed: 7\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "parameters")
    Path("params.yaml").write_text("pairs: {support_ratio: 0.25}\nseed: 7\n")
    fields = parameter_schema(align).model_dump()["definitions"]["Settings"]["properties"]
    assert fields["support_ratio"]["description"].endswith(
        "Now in params.yaml: 1.0 in the last commit, 0.25 with the switch `uncommitted`."
    )
    assert fields["seed"]["description"].endswith("Now in params.yaml: 7.")


def test_every_field_of_the_form_is_described():
    assert [
        name for name, field in Settings.model_json_schema()["properties"].items() if not field["description"]
    ] == []


def test_an_empty_form_changes_nothing():
    assert Settings().parameters().values(PARAMS) == read_yaml(PARAMS)


def test_a_profile_and_what_is_set_are_put_together():
    form = Settings(profile="breeze-7b", support_ratio=0.5, r=16, seed=7, overrides={"answers.max_new_tokens": 60})
    expected = {"pairs.support_ratio": 0.5, "train.r": 16, "seed": 7, "answers.max_new_tokens": 60}
    assert form.parameters().values(PARAMS) == compose("breeze-7b", expected)


@pytest.mark.parametrize(("field", "value"), [("support_ratio", 1.5), ("beta", 0), ("data_size", 0), ("rank", 8)])
def test_a_wrong_value_is_refused_with_the_name_of_its_field(field: str, value: float):
    with pytest.raises(ValidationError, match=field):
        Settings.model_validate({field: value})


def test_an_override_that_is_no_parameter_is_refused_by_name():
    with pytest.raises(InputError, match=r"train.bata: there is no such parameter"):
        Settings(overrides={"train.bata": 0.1}).parameters().values(PARAMS)
