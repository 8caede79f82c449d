"""The purpose of each gate in one sentence, by the gate's name."""

from collections.abc import Mapping
from types import MappingProxyType

from stance.language.translation import N_

PURPOSES: Mapping[str, str] = MappingProxyType(
    {
        "fingerprint": N_("The aligned model must read a conversation as the same tokens as its base model."),
        "watchdog": N_(
            "The training must reach its last step or the early stop that was asked for, and must not be stopped "
            "because the model breaks."
        ),
        "joint": N_("A training after a fine-tuning must begin as the fine-tuned model, which is also its reference."),
        "engine": N_("vLLM must draw the answers of the reinforcement learning as the policy would draw them."),
        "reward joint": N_("The reinforcement learning must reward as the reward model did when it was measured."),
        "parity": N_("The merged weights must be the model that was trained, apart from rounding."),
        "served": N_("The serving engine must give the same probabilities as the merged model."),
        "classifier": N_("The judge must be right often enough that its labels can be believed."),
        "judge": N_("The second judge must have read the answers."),
        "adherence": N_("The answers must hold the stance that was chosen."),
        "degeneration": N_("The answers must still be whole sentences in the language of the data."),
        "displacement": N_(
            "The training must keep the preferred answers likely, and not only make the other answers unlikely."
        ),
        "side effects": N_("The training must change the topic, and as little else as the bounds allow."),
        "tokenizer": N_("The tokenizer's files must be those of the training."),
        "live fingerprint": N_("The running engine must read a conversation as the same tokens as the base model."),
        "live parity": N_("The running engine must give the answers and probabilities of the run."),
        "canary": N_("The running engine must answer every test prompt in time."),
        "not worse": N_("A new release must hold the stance at least as well as the last one."),
    }
)
