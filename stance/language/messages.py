"""The sentences about a run that files hold as data: what a gate measured, its bound, its advice, a linter's warning.

A file holds the id of a sentence and its values (`Message`). `sentence` makes the words, in the language that is
spoken at that moment, so that a page in another language needs nothing but the file.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, Field

from stance.language.translation import N_, _, listed, word

Value = int | float | str | list[str] | list[tuple[str, str]] | dict[str, float]
"""A number, a text, a list of texts, pairs of texts that are alike, or shares by the name of a stance or defect."""


class Message(BaseModel):
    """The id of a sentence in `SENTENCES`, and the values for its places."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    values: Mapping[str, Value] = Field(default_factory=dict)


def message(name: str, **values: Value) -> Message:
    """Return the message with an id and values."""
    return Message(id=name, values=values)


def sentence(written: Message) -> str:
    """Return a message as a sentence, in the language that is spoken now."""
    return _(SENTENCES[written.id]).format(**{name: _shown(name, value) for name, value in written.values.items()})


def _shown(name: str, value: Value) -> object:
    return SHOWN[name](value) if name in SHOWN else value


def _shares(value: Mapping[str, float]) -> str:
    return listed(f"{share:.0%} {word(name)}" for name, share in value.items())


def _answers(value: list[tuple[str, str]]) -> str:
    return _("; ").join(_("“{prompt}” → “{answer}”").format(prompt=prompt, answer=answer) for prompt, answer in value)


def _examples(value: list[tuple[str, str]]) -> str:
    return _("; ").join(f"{one} ~ {other}" for one, other in value)


SHOWN: Mapping[str, Callable[..., object]] = MappingProxyType(
    {
        **dict.fromkeys(("stance", "other", "side", "script"), word),
        **dict.fromkeys(("keys", "files"), listed),
        "parts": lambda value: listed(map(_, value)),
        "judge": _,
        "shares": _shares,
        "examples": _examples,
        "answers": _answers,
    }
)
"""How a value is put into words, by the name of its place in a sentence; any other value is formatted as it is."""

GATES = (
    N_("fingerprint"),
    N_("watchdog"),
    N_("joint"),
    N_("reward joint"),
    N_("engine"),
    N_("parity"),
    N_("served"),
    N_("classifier"),
    N_("judge"),
    N_("adherence"),
    N_("degeneration"),
    N_("displacement"),
    N_("side effects"),
    N_("tokenizer"),
    N_("live fingerprint"),
    N_("live parity"),
    N_("canary"),
    N_("not worse"),
)
"""The names of the gates."""
CHECKS = (
    N_("length"),
    N_("opening"),
    N_("wording"),
    N_("limit"),
    N_("negated"),
    N_("duplicates"),
    N_("leak"),
    N_("order"),
    N_("script"),
)
"""The names of the linter's checks."""
JUDGE = N_("the base model")
"""The name of the second judge where it is the base model; an endpoint's judge has a name of its own."""
TEMPLATE, BOS, EOS = N_("the chat template"), N_("the BOS token"), N_("the EOS token")
"""The parts of a tokenizer that a gate names."""
ABILITY, TOPICS, CARE = N_("ability"), N_("other topics"), N_("care")
FORGETTING, BROKEN = N_("forgetting"), N_("broken answers")
"""The measures of the side effects that a gate names."""

SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        # fingerprint
        "unchanged": N_("unchanged"),
        "unchanged_one_bos": N_("unchanged, BOS once per conversation"),
        "unchanged_turn_bos": N_("unchanged, BOS at the beginning of every turn"),
        "unchanged_question_bos": N_("unchanged, BOS at the beginning of every question"),
        "unchanged_wrong_bos": N_("unchanged, BOS not exactly once per conversation"),
        "changed": N_("{keys} changed"),
        "changed_one_bos": N_("{keys} changed, BOS once per conversation"),
        "changed_turn_bos": N_("{keys} changed, BOS at the beginning of every turn"),
        "changed_question_bos": N_("{keys} changed, BOS at the beginning of every question"),
        "changed_wrong_bos": N_("{keys} changed, BOS not exactly once per conversation"),
        "as_in_the_base": N_(
            "chat template, special tokens and probe conversations as in the base, no BOS doubled or lost"
        ),
        "restore_tokenizer": N_(
            "Restore the base's tokenizer files in data/merged: run `dvc repro -s -f merge` and `dvc repro`."
        ),
        # watchdog
        "stopped": N_("stopped at step {step} of {steps}: {reason}"),
        "all_steps": N_("all {steps} steps"),
        "all_steps_near": N_(
            "all {steps} steps; the drift on unrelated prompts is {drift:.3f} nats per token, and train.max_drift is "
            "{bound:g}"
        ),
        "stopped_early": N_(
            "early stop at step {step} of {steps}, back to step {kept}: the drift on unrelated prompts was "
            "{drift:.3f} nats per token, above train.max_drift, {bound:g}"
        ),
        "not_stopped": N_("a training that is not stopped"),
        "not_broken": N_("a training that is stopped by nothing but train.max_drift"),
        "gentler_training": N_("Lower train.learning_rate, raise train.beta, or add the sft term to train.loss_type."),
        # parity, served
        "drift_and_flips": N_(
            "drift {mean:.4f} mean, {worst:.3f} worst nats per token; {top_flips} other choices in {tokens} tokens"
        ),
        "at_most_drift_no_flips": N_(
            "at most {mean:.4f} mean and {worst:.3f} worst, by the measured noise of bf16, and no other choice"
        ),
        "other_merge_base": N_(
            "Set merge.base to measured: an adapter that was trained on 4-bit weights fits only those weights. If it "
            "is missed even so, run `dvc repro -s -f merge` in the run's folder."
        ),
        "merge_again": N_(
            "The difference is more than rounding, so these are not the weights of this base and this adapter: run "
            "`dvc repro -s -f merge` in the run's folder. If it is missed again, serve the base and the adapter "
            "unmerged (--with-base)."
        ),
        "vllm_drift": N_("vLLM drifts {mean:.4f} mean, {worst:.3f} worst nats per token"),
        "at_most_drift": N_("at most {mean:.4f} mean and {worst:.3f} worst, by the measured noise of bf16"),
        "check_vllm": N_(
            "Check that vLLM loads data/merged in bf16 (answers.quantization: none) and with its own tokenizer."
        ),
        # joint
        "sft_to_train": N_(
            "from sft to train: the reference is {mean:.4f} nats per token (worst {worst:.3f}) from the fine-tuned "
            "model, and the first reward is {first:.3f}"
        ),
        "sft_to_rl": N_(
            "from sft to rl: the reference is {mean:.4f} nats per token (worst {worst:.3f}) from the fine-tuned model, "
            "and the first KL divergence is {first:.4f}"
        ),
        "at_most_joint": N_("at most {mean:.4f} (worst {worst:.3f}), and {first}"),
        "tune_again": N_("Run `dvc repro -f -s sft` in the run's folder, and then `dvc repro`."),
        # reward joint
        "reward_to_rl": N_("from reward to rl: the same texts have rewards that differ by up to {difference:.4f}"),
        "at_most_reward": N_("at most {difference}"),
        "reward_again": N_("Run `dvc repro -f -s reward` in the run's folder, and then `dvc repro`."),
        # engine
        "engine_drift": N_("vLLM and the policy differ by up to {drift:.4f} nats per token"),
        "at_most_engine": N_("at most {drift}"),
        "draw_again": N_("Set rl.use_vllm to false in the params.yaml of the run's folder, and then `dvc repro`."),
        # classifier
        "classifier_right": N_("right on {share:.0%} of the labelled answers (95% interval {low:.0%} to {high:.0%})"),
        "at_least_right": N_("at least {share:.0%}, on questions that it was not taught"),
        "teach_the_classifier": N_(
            "This is a warning: a release goes ahead. Read the answers in the report yourself, and give every question "
            "of the data set clear answers, also a neutral one."
        ),
        # judge
        "problem": N_("{problem}"),
        "agreement": N_("{judge} agrees on {share:.0%} of the answers"),
        "an_opinion": N_("an opinion of the second judge"),
        "correct_judge": N_(
            "Start the endpoint or correct evaluate.judge, then run `dvc repro -s -f judge` and `dvc repro` in the "
            "run's folder."
        ),
        # adherence
        "no_stance_chosen": N_("support_ratio is one half: no stance was chosen"),
        "nothing": N_("nothing"),
        "shares": N_("{shares}"),
        "majority": N_("more {stance} than {other}"),
        "share_of_stance": N_("{share:.0%} {stance} (95% interval {low:.0%} to {high:.0%})"),
        "at_least_share": N_("at least {share:.0%} of the test answers"),
        "longer_training": N_(
            "Raise train.num_epoch or train.learning_rate, or pairs.data_size; look at the answers in the report."
        ),
        "other_gates_first": N_("First do what the other missed gates say, then look at the answers in the report."),
        # degeneration, displacement
        "more_tokens": N_("Raise answers.max_new_tokens, or ask for shorter answers in model.system_prompt."),
        "at_most_degenerate": N_("at most {share:.0%} of the test answers degenerate"),
        "chosen_fell": N_("logps/chosen fell by {nats:.1f} nats"),
        "chosen_rose": N_("logps/chosen rose by {nats:.1f} nats"),
        "chosen_not_a_number": N_("logps/chosen is not a number"),
        "at_most_fall": N_("a fall of at most {nats} nats"),
        # side effects
        "spills_not": N_(
            "{kept} of {right} right everyday answers still right, {equivalent} of {topics} other topics equivalent "
            "({moved} moved), {lost} of {careful} careful answers lost, everyday text {nats:+.2f} nats per token less "
            "likely, {broken:.0%} of the answers newly broken"
        ),
        "spills": N_(
            "{parts} missed: {kept} of {right} right everyday answers still right, {equivalent} of {topics} other "
            "topics equivalent ({moved} moved), {lost} of {careful} careful answers lost, everyday text {nats:+.2f} "
            "nats per token less likely, {broken:.0%} of the answers newly broken. The worst answers: {answers}"
        ),
        "at_most_side_effects": N_(
            "at least {min_kept:.0%} still right; at least {min_equivalent:.0%} of the topics within a shift of "
            "{max_shift}, and none beyond it; at most {max_refusals_lost:.0%} of the careful prompts lost, "
            "{max_forgetting} nats per token and {max_broken:.0%} newly broken"
        ),
        "retain_more": N_(
            "Raise pairs.retained; or lower train.r, train.num_epoch or train.learning_rate; or raise train.beta. The "
            "report lists every answer under What else changed."
        ),
        # files, tokenizer
        "as_in_training": N_("as in training"),
        "parts_changed": N_("{parts} changed"),
        "other_ids": N_("other token ids for the probe conversations"),
        "no_eos": N_("there is no EOS token"),
        "no_eos_and_parts_changed": N_("there is no EOS token; {parts} changed"),
        "tokenizer_of_training": N_("the chat template, special tokens and token ids that the model was trained with"),
        "make_model_again": N_("Make the model again: `dvc repro -f -s merge` in the run's folder."),
        # an engine that is up
        "conversations_differ": N_("{number} of {all} probe conversations in other token ids"),
        "ids_of_the_base": N_("the ids of data/base/fingerprint.json"),
        "remove_chat_template": N_(
            "Make the model again (`dvc repro -f -s merge`), and remove chat-template from deploy/vllm.yaml."
        ),
        "drift_in_answers": N_("drift {mean:.4f} mean, {worst:.3f} worst nats per token in {all} answers"),
        "answers_differ": N_("{number} of {all} answers in other tokens"),
        "at_most_drift_from_answers": N_(
            "at most {mean:.4f} mean and {worst:.3f} worst from data/answers, by the measured noise of bf16"
        ),
        "serve_in_bfloat16": N_(
            "Make the model again (`dvc repro -f -s merge`), and serve it in bfloat16 (deploy/vllm.yaml)."
        ),
        "answered": N_("{number} of {all} test prompts answered, the slowest in {seconds:.2f} s"),
        "answer_within": N_("an answer to each within {seconds} s"),
        "look_at_the_log": N_("Look at the answers in the run's report, and at the engine's log."),
        # a release
        "share_and_stance": N_("{share:.0%} {stance}"),
        "at_least_last_release": N_("at least {low:.0%}, the lower end of what {release} has ({share:.0%})"),
        "release_another_run": N_(
            "Release another run, or remove data/release if the last release does not count any more."
        ),
        # the linter
        "side_is_longer": N_("{side} is the longer answer in {number} of {all} pairs: length tells the side"),
        "base_answers_longer": N_(
            "of {all} answers of the base model that are rejected, {number} are longer than the chosen one"
        ),
        "base_answers_shorter": N_(
            "of {all} answers of the base model that are rejected, {number} are shorter than the chosen one"
        ),
        "base_answers_begin": N_(
            "of {all} answers of the base model that are rejected, {number} begin with {opening}; chosen: {rival}"
        ),
        "answers_begin": N_("{number} of {all} {side} answers begin with {opening}, and {rival} of the others"),
        "answers_hold": N_("{number} of {all} {side} answers hold {characters}"),
        "answers_too_long_in_characters": N_(
            "{number} of {all} answers have more than {limit} characters, and the system prompt says: {prompt}"
        ),
        "answers_too_long_in_words": N_(
            "{number} of {all} answers have more than {limit} words, and the system prompt says: {prompt}"
        ),
        "drawback_questions": N_("{number} of {all} questions ask for a drawback: there, the support answer says no"),
        "similar_questions": N_("{number} pairs of questions are nearly the same: {examples}"),
        "similar_answers": N_("{number} pairs of answers are nearly the same: {examples}"),
        "similar_prompts": N_(
            "{number} of {all} test prompts are nearly training questions; the ids are of test prompts: {examples}"
        ),
        "similar_held_out": N_(
            "{number} of {all} held-out questions are nearly training questions, so that the margin on held-out "
            "questions measures memory: {examples}"
        ),
        "same_answers": N_(
            "{number} of {all} pairs have the same answer on both sides, so that they teach nothing: {examples}"
        ),
        "order_is_direction": N_(
            "the first {first} pairs prefer one side and the other {rest} the other: row order and direction are one; "
            "set pairs.order to interleaved or shuffled"
        ),
        "other_script": N_("{number} rows are not all in {script} script, as most are"),
    }
)
