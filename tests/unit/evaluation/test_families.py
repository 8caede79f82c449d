"""The gate on the fingerprint, on tokenizers that behave as those of well-known families do."""

import pytest
from transformers import AutoTokenizer

from stance.data.chat import (
    conversation,
    encode,
    encode_answer,
    encode_conversation,
    fingerprint,
    pin_files,
    pinned,
    replaced_template,
)
from stance.errors import InputError
from stance.evaluation.gates import fingerprint_gate
from stance.language.messages import sentence
from stance.machine.files import read_json, write_json
from stance.models.intake import checked_tokenizer
from tests.builders.families import CHATML, FAMILIES, REFUSED, byte_level_of, sentencepiece_of, tokenizer_of

each_family = pytest.mark.parametrize("name", FAMILIES)
USE = {
    "Llama 3": "unchanged, BOS once per conversation",
    "Qwen2.5": "unchanged",
    "Mistral": "unchanged, BOS once per conversation",
    "Gemma": "unchanged, BOS once per conversation",
    "Breeze": "unchanged, BOS once per conversation",
    "SmolLM2": "unchanged, BOS at the beginning of every turn",
    "Llama 2": "unchanged, BOS at the beginning of every question",
    "Llama 3.2": "unchanged, BOS once per conversation",
    "Qwen3": "unchanged",
    "SmolLM3": "unchanged",
    "Phi-3": "unchanged",
    "BOS left to the tokenizer": "unchanged",
}


@each_family
def test_a_sound_tokenizer_of_every_family_passes(name):
    found = fingerprint(tokenizer_of(FAMILIES[name]))
    gate = fingerprint_gate(found, found)
    assert (gate.passed, sentence(gate.figure)) == (True, USE[name])


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.bos])
def test_a_doubled_bos_is_caught_in_every_family_even_where_the_base_has_it_so(name):
    family = FAMILIES[name]
    doubled = fingerprint(tokenizer_of(family._replace(template="{{ bos_token }}{{ bos_token }}" + family.template)))
    gate = fingerprint_gate(doubled, doubled)
    assert (gate.passed, sentence(gate.figure)) == (False, "unchanged, BOS not exactly once per conversation")


@pytest.mark.parametrize("name", ["Llama 3", "Mistral", "Gemma", "Breeze"])
def test_a_template_that_has_lost_its_bos_is_caught(name):
    family = FAMILIES[name]
    sound = fingerprint(tokenizer_of(family))
    lost = fingerprint(tokenizer_of(family._replace(template=family.template.replace("{{ bos_token }}", ""))))
    assert not fingerprint_gate(sound, lost).passed


@pytest.mark.parametrize("name", ["Llama 3", "Mistral", "Gemma", "Breeze"])
def test_a_template_whose_bos_renders_as_nothing_is_caught_even_where_the_base_has_it_so(name):
    family = FAMILIES[name]
    empty = fingerprint(
        tokenizer_of(family._replace(template=family.template.replace("{{ bos_token }}", "{{ bos_token[:0] }}")))
    )
    assert not fingerprint_gate(empty, empty).passed


def test_a_turn_marker_that_begins_only_some_turns_is_caught():
    missing = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ 'assistant\n' }}").replace(
        "'<|im_start|>' + ", "'' + "
    )
    broken = fingerprint(tokenizer_of(FAMILIES["SmolLM2"]._replace(template=missing)))
    assert not fingerprint_gate(broken, broken).passed


@each_family
def test_an_answer_can_be_scored_in_every_family_and_holds_its_end(name):
    tokenizer = tokenizer_of(FAMILIES[name])
    prompt, answer = encode_answer(tokenizer, conversation("Be brief.", "Is it good?"), "It is.")
    assert prompt == encode(tokenizer, conversation("Be brief.", "Is it good?"))
    end = {"Gemma": "<end_of_turn>", "Phi-3": "<|end|>"}.get(name, FAMILIES[name].eos)
    assert tokenizer.convert_tokens_to_ids(end) in answer
    assert tokenizer.decode(answer).replace(" ", "").startswith("Itis.")


ANSWERS = ("AI is good.", "CG is bad.", "Yes, it will.", "回覆。", " 畫面會更好。", "1")
KINDS = {"characters": tokenizer_of, "SentencePiece": sentencepiece_of, "byte-level BPE": byte_level_of}


@each_family
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_prompt_and_answer_are_together_the_conversation_for_every_tokenizer(name, kind, answer):
    tokenizer, question = KINDS[kind](FAMILIES[name]), conversation("Be brief.", "Is it good?")
    prompt, scored = encode_answer(tokenizer, question, answer)
    assert prompt + scored == encode_conversation(tokenizer, [*question, {"role": "assistant", "content": answer}])
    asked = encode(tokenizer, question)
    assert prompt == asked[: len(prompt)]
    assert len(asked) - len(prompt) <= 1  # the space that the template ends with, and no more
    assert "<think>" not in tokenizer.decode(scored)


def test_breezes_last_space_and_a_latin_word_are_one_token_of_the_answer():
    tokenizer, question = sentencepiece_of(FAMILIES["Breeze"]), conversation("Be brief.", "Is it good?")
    asked = encode(tokenizer, question)
    prompt, scored = encode_answer(tokenizer, question, "AI is good.")
    assert asked != prompt
    assert tokenizer.convert_ids_to_tokens(scored[0]).startswith("\u2581A")
    assert tokenizer.decode(scored).startswith("AI is good.")


@pytest.mark.parametrize("name", ["Llama 3.2", "SmolLM3"])
def test_a_conversation_has_the_same_ids_on_every_day(name, monkeypatch):
    from transformers.utils import chat_template_utils

    class Tomorrow(chat_template_utils.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 5, 4, tzinfo=tz)

    tokenizer = tokenizer_of(FAMILIES[name])
    today = fingerprint(tokenizer)
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    chat_template_utils._compile_jinja_template.cache_clear()
    assert fingerprint(tokenizer) == today
    tokenizer.chat_template = FAMILIES[name].template
    assert fingerprint(tokenizer) != today


@pytest.mark.parametrize("name", ["Qwen3", "SmolLM3"])
def test_thinking_is_off_unless_a_request_switches_it_on(name):
    tokenizer, question = tokenizer_of(FAMILIES[name]), conversation("Be brief.", "Is it good?")
    thinking = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert thinking.endswith("<|im_start|>assistant\n")
    silent = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert silent.rstrip().endswith("</think>")


@each_family
def test_a_pinned_template_is_pinned_already_and_others_keep_their_bytes(name):
    template = FAMILIES[name].template
    assert pinned(pinned(template)) == pinned(template)
    assert (pinned(template) == template) == (name not in {"Llama 3.2", "Qwen3", "SmolLM3"})


def test_a_date_of_a_computed_format_is_refused():
    with pytest.raises(InputError, match="write a date into chat_template.jinja"):
        pinned("{{ strftime_now(form) }}")


def test_words_of_a_text_and_attributes_are_no_variables_of_thinking():
    for template in ("I am thinking {{ x }}", "{{ message.thinking }}", "{{ 'thinking' in m }}", "{% broken {{"):
        assert pinned(template) == template
    assert pinned("{% if thinking %}a{% endif %}").startswith("{% set thinking = thinking | default(false) %}")


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_loses_the_system_prompt_or_the_question_is_refused_by_base(name, tmp_path):
    family, reason = REFUSED[name]
    tokenizer_of(family).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=reason):
        checked_tokenizer(tmp_path, "this model")


@each_family
def test_base_takes_every_family_of_the_table(name, tmp_path):
    tokenizer = tokenizer_of(FAMILIES[name])
    tokenizer.chat_template = FAMILIES[name].template
    tokenizer.save_pretrained(tmp_path)
    assert fingerprint(checked_tokenizer(tmp_path, "this model")) == fingerprint(tokenizer_of(FAMILIES[name]))


@each_family
def test_only_an_engine_of_a_base_whose_files_are_not_pinned_is_given_a_template(name, tmp_path):
    tokenizer = tokenizer_of(FAMILIES[name])
    tokenizer.chat_template = FAMILIES[name].template
    tokenizer.save_pretrained(tmp_path)
    template = pinned(FAMILIES[name].template)
    assert replaced_template(tmp_path) == (None if template == FAMILIES[name].template else template)


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json", "several"])
def test_the_files_of_the_merged_model_hold_the_pinned_template(place, tmp_path):
    family = FAMILIES["Qwen3"]
    tokenizer = tokenizer_of(family)
    tokenizer.chat_template = family.template
    tokenizer.save_pretrained(tmp_path)
    file, configuration = tmp_path / "chat_template.jinja", tmp_path / "tokenizer_config.json"
    if place != "chat_template.jinja":
        file.unlink()
        several = [{"name": "default", "template": family.template}, {"name": "tool_use", "template": "{{ thinking }}"}]
        values = read_json(configuration) | {"chat_template": several if place == "several" else family.template}
        write_json(configuration, values)
    pin_files(tmp_path)
    loaded = AutoTokenizer.from_pretrained(str(tmp_path)).chat_template
    assert (loaded["default"] if place == "several" else loaded) == pinned(family.template)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    pin_files(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
