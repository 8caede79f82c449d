"""The stance of an answer in any language: a linear probe on the hidden states of the base model.

In: questions and answers. Out: one verdict per answer. The base model reads "Question: ... Answer: ...", and a logistic
regression reads the stance from what the model holds while it reads: the mean of the hidden states over the tokens of
the answer. The regression learns from the data set's own labelled answers and from labelled answers about other topics
in the same language. Nothing here depends on the language, as long as the base model reads it.

Layer and regularisation are chosen by cross-validation over questions and over the other topics, so that no answer is
judged by a probe that has seen another answer to the same question or about the same other topic. A text without
letters, or one that repeats itself, is neutral with score 0.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from stance.data.questions import Stance
from stance.evaluation.classifier import FACTS, NUMBERS, STANCES, Labelled, Verdict, restored, write_numbers
from stance.evaluation.defects import LOOP, repeats
from stance.machine.files import read_json, write_json

BEFORE, AFTER = "Question: {prompt}\nAnswer: ", "\n"
"""What stands around an answer when the model reads it."""
DEPTHS = (0.4, 0.5, 0.6)
"""The candidate layers, as parts of the model's depth. Deeper layers are about the next token more than the meaning."""
REGULARISATION = (0.001, 0.003, 0.01, 0.03)
"""The candidate values of C, the inverse regularisation of the regression."""
FOLDS, BATCH, TOKENS = 10, 32, 512
"""Folds of the cross-validation, texts that are read at once, and tokens of a text that are read."""
States = npt.NDArray[np.float32]
Chances = npt.NDArray[np.float64]
"""Chances hold the probability of each of `STANCES`. Shape (answers, stances)."""


class Reader(Protocol):
    """Reads answers: `ModelReader`, or a double of it in a test."""

    def states(self, prompts: Sequence[str], responses: Sequence[str]) -> States:
        """Return the mean hidden state over each answer. Shape (answers, candidate layers, width)."""
        ...


class ModelReader:
    """Reads answers with the lower layers of a causal language model.

    The layers above the deepest candidate are not loaded. On a CPU the model computes in fp32, in which small models
    give the same bytes at every call; on a GPU it computes in bf16.
    """

    def __init__(self, folder: Path, device: str) -> None:
        """Load the lower layers of the model in a folder to `cpu` or `cuda`."""
        import torch  # takes seconds, which a run with a classifier by wording need not wait
        from transformers import AutoConfig, AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()  # it would list the layers that are left out on purpose
        logging.disable_progress_bar()
        self._torch, self._device = torch, device
        config = AutoConfig.from_pretrained(str(folder))
        self.layers = candidate_layers(config.num_hidden_layers)
        config.num_hidden_layers = min(config.num_hidden_layers, self.layers[-1] + 1)
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: config.num_hidden_layers]
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self._tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self._model = AutoModel.from_pretrained(str(folder), config=config, dtype=dtype).to(device).eval()

    def states(self, prompts: Sequence[str], responses: Sequence[str]) -> States:
        """Return the mean hidden state over each answer. Shape (answers, candidate layers, width).

        Texts of like length are read together, which saves padding.
        """
        texts = [self._tokens(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        order = sorted(range(len(texts)), key=lambda index: len(texts[index][0]))
        states = np.empty((len(texts), len(self.layers), self._model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            states[batch] = self._read([texts[index] for index in batch])
        return states

    def _tokens(self, prompt: str, response: str) -> tuple[list[int], list[bool]]:
        """Return the token ids of a text, and which of them belong to the answer; of an empty answer all do."""
        before = BEFORE.format(prompt=prompt)
        first, last = len(before), len(before) + len(response)
        encoded = self._tokenizer(
            before + response + AFTER, return_offsets_mapping=True, truncation=True, max_length=TOKENS
        )
        inside = [end > first and begin < last for begin, end in encoded["offset_mapping"]]
        return encoded["input_ids"], inside if any(inside) else [True] * len(inside)

    def _read(self, texts: Sequence[tuple[list[int], list[bool]]]) -> States:
        torch = self._torch
        longest = max(len(ids) for ids, _ in texts)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row, _ in texts], device=self._device)
        read = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in texts], device=self._device)
        inside = torch.tensor([row + [False] * (longest - len(row)) for _, row in texts], device=self._device)
        with torch.inference_mode():
            hidden = self._model(ids, attention_mask=read, output_hidden_states=True, use_cache=False).hidden_states
        chosen = torch.stack([hidden[layer] for layer in self.layers], dim=1).float()
        weights = inside.float()[:, None, :, None]
        mean = (chosen * weights).sum(dim=2) / weights.sum(dim=2)
        return np.asarray(mean.cpu().numpy(), dtype=np.float32)


def candidate_layers(depth: int) -> list[int]:
    """Return the layers that a model of some depth is tried at; layer 1 is the output of the first block."""
    return sorted({max(1, round(part * depth)) for part in DEPTHS})


class Choice(NamedTuple):
    """A layer, by its place among the candidates, and an inverse regularisation."""

    place: int
    regularisation: float


class HiddenStateClassifier:
    """Judges answers by the hidden states of the base model; made by `fit` or `read`."""

    def __init__(self, reader: Reader, place: int, probe: Pipeline) -> None:
        """Keep the parts; `place` is that of the layer among the candidates."""
        self._reader, self.place, self._probe = reader, place, probe

    @classmethod
    def fit(cls, reader: Reader, rows: Sequence[Labelled], corpus: Sequence[Labelled]) -> tuple[Self, list[Verdict]]:
        """Learn from labelled answers.

        Args:
            reader: Reads the answers.
            rows: Answers of the data set.
            corpus: Answers about other topics, perhaps none.

        Returns:
            The classifier, and the verdict on every row of `rows` and then of `corpus`, by a probe that was taught no
            answer to the same question, or about the same other topic.
        """
        both = [*rows, *corpus]
        states = reader.states([row.prompt for row in both], [row.response for row in both])
        lessons = Lessons(states, [row.stance for row in both], [row.topic or row.prompt for row in both], len(rows))
        choices = [Choice(place, c) for place in range(states.shape[1]) for c in REGULARISATION]
        with threadpool_limits(1):  # so few rows: threads only get into each other's way
            found = {choice: lessons.left_out(choice) for choice in choices}
            best = max(choices, key=lambda choice: lessons.accuracy(found[choice]))
            probe = lessons.probe(best, np.ones(len(both), dtype=bool))
        verdicts = [_verdict(row.response, chances) for row, chances in zip(both, found[best], strict=True)]
        return cls(reader, best.place, probe), verdicts

    @classmethod
    def read(cls, folder: Path, reader: Reader) -> Self:
        """Return the classifier that `write` has written to a folder; it reads the same base model."""
        facts, numbers = read_json(folder / FACTS), load_file(folder / NUMBERS)
        scaler = restored(StandardScaler(), mean_=numbers["mean"], scale_=numbers["scale"])
        coefficients, classes = numbers["coefficients"].T, np.array(facts["classes"])
        regression = restored(
            LogisticRegression(), coef_=coefficients, intercept_=numbers["intercept"], classes_=classes
        )
        return cls(reader, facts["place"], make_pipeline(scaler, regression))

    def write(self, folder: Path) -> None:
        """Write the classifier to a folder. The same classifier always gives the same bytes."""
        scaler, regression = self._probe
        facts = {"reads": "hidden_state", "place": self.place, "classes": regression.classes_.tolist()}
        write_json(folder / FACTS, facts)
        # Transposed, as a fit leaves them in memory: with another layout, a product may differ in its last bit.
        numbers = {"coefficients": regression.coef_.T, "intercept": regression.intercept_}
        write_numbers(folder / NUMBERS, numbers | {"mean": scaler.mean_, "scale": scaler.scale_})

    @staticmethod
    def is_broken(text: str) -> bool:
        """Is a text without letters, or does it repeat itself?"""
        return not any(map(str.isalpha, text)) or LOOP.search(text) is not None or repeats(text)

    def predict(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Verdict]:
        """Return one verdict per answer."""
        if not responses:
            return []
        states = self._reader.states(prompts, responses)[:, self.place]
        return [_verdict(*pair) for pair in zip(responses, _chances(self._probe, states), strict=True)]


class Lessons(NamedTuple):
    """Labelled answers as the base model reads them: first those of the data set, then those about other topics."""

    states: States
    stances: list[Stance]
    groups: list[str]
    """Answers of one group are left out together: those to one question of the data set, or about one other topic."""
    own: int
    """How many are of the data set."""

    def left_out(self, choice: Choice) -> Chances:
        """Return the chances of every answer by a probe that was taught no answer of the same group."""
        numbers = {group: number for number, group in enumerate(dict.fromkeys(self.groups))}
        folds = np.array([numbers[group] % FOLDS for group in self.groups])
        found = np.zeros((len(folds), len(STANCES)))
        for fold in sorted(set(folds)):
            states = self.states[folds == fold, choice.place]
            found[folds == fold] = _chances(self.probe(choice, folds != fold), states)
        return found

    def probe(self, choice: Choice, chosen: npt.NDArray[np.bool_]) -> Pipeline:
        """Return a probe that was taught the chosen answers."""
        stances = [stance for stance, is_chosen in zip(self.stances, chosen, strict=True) if is_chosen]
        regression = LogisticRegression(C=choice.regularisation, class_weight="balanced", max_iter=1000, tol=1e-3)
        return make_pipeline(StandardScaler(), regression).fit(self.states[chosen, choice.place], stances)

    def accuracy(self, found: Chances) -> float:
        """Return the mean of the accuracies on the data set and on the other topics; the two count the same."""
        right = [STANCES[row.argmax()] == stance for stance, row in zip(self.stances, found, strict=True)]
        parts = [part for part in (right[: self.own], right[self.own :]) if part]
        return fmean(fmean(part) for part in parts)


def _chances(probe: Pipeline, states: States) -> Chances:
    chances = np.zeros((len(states), len(STANCES)))
    chances[:, [STANCES.index(stance) for stance in probe.classes_]] = probe.predict_proba(states)
    return chances


def _verdict(response: str, chances: Chances) -> Verdict:
    if HiddenStateClassifier.is_broken(response):
        return Verdict("neutral", 0.0)
    return Verdict(STANCES[int(chances.argmax())], round(float(chances[2] - chances[0]), 4))
