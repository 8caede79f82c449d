"""The gate on the fingerprint, on tokenizers that behave as those of well-known families do."""

import pytest

from stance.data.chat import conversation, encode, encode_answer, fingerprint
from stance.evaluation.gates import fingerprint_gate
from stance.language.messages import sentence
from tests.builders.families import CHATML, FAMILIES, tokenizer_of

each_family = pytest.mark.parametrize("name", FAMILIES)
USE = {
    "Llama 3": "unchanged, BOS once per conversation",
    "Qwen2.5": "unchanged",
    "Mistral": "unchanged, BOS once per conversation",
    "Gemma": "unchanged, BOS once per conversation",
    "Breeze": "unchanged, BOS once per conversation",
    "SmolLM2": "unchanged, BOS at the beginning of every turn",
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
    end = "<end_of_turn>" if name == "Gemma" else FAMILIES[name].eos
    assert tokenizer.convert_tokens_to_ids(end) in answer
    assert tokenizer.decode(answer).replace(" ", "").startswith("Itis.")
