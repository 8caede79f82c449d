"""The advice in an error of the Hub fits what the model is fetched for."""

import pytest
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

from stance.models.hub_errors import SENTENCES, sentence


def test_no_advice_to_someone_who_serves_a_release_is_about_the_base_model():
    for sentences in SENTENCES.values():
        if "fetch" in sentences:
            assert "base." not in sentences.get("serve", sentences["fetch"])


@pytest.mark.parametrize(
    ("error", "fetch", "serve"),
    [
        (HFValidationError("bad"), "base.repo_id is 'a//b'; expected", "the name after --hub is 'a//b'; expected"),
        (OfflineModeIsEnabled("off"), "set base.source to folder", "serve a run of this project with --run"),
        (ConnectionError("no"), "set base.source to folder", "serve a run of this project with --run"),
        (ValueError("odd"), "a//b cannot be fetched", "a//b cannot be fetched"),
    ],
)
def test_the_same_error_has_the_advice_of_its_action(error, fetch, serve):
    assert fetch in sentence(error, "a//b", "fetch", "main")
    assert serve in sentence(error, "a//b", "serve", "main")


def test_serving_takes_the_sentence_of_a_fetch_where_it_has_none_of_its_own():
    full = OSError(28, "No space left on device")
    assert sentence(full, "a/b", "serve") == sentence(full, "a/b", "fetch")
    assert "is full; make room" in sentence(full, "a/b", "serve")
