"""The sizes of a model and of the texts of a data set, from which the memory of every stage is computed.

In: a model's configuration, from which transformers builds an outline without weights. The outline gives the sizes and
the layers, so that no name of a key in the configuration is assumed but those of the key-value heads. Sizes are in
bytes.
"""

from collections.abc import Sequence
from heapq import nlargest
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch.nn import ModuleList
from transformers import PretrainedConfig, PreTrainedModel

from stance.config.params import Params
from stance.config.road import Reward, Rl
from stance.config.training import Train
from stance.data.chat import Message, conversation, encode, encode_conversation
from stance.data.questions import Question
from stance.inference.batch import BF16, cache_per_token
from stance.language.detect import language_of
from stance.models.loading import arithmetic
from stance.models.outline import adapted_layers, embedding_shape, linear_layers, outline

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FP32 = 4
NF4 = 0.5 + FP32 / 64
"""Bytes per weight: four bits, and a scale for every 64 weights."""
MASK = 1
"""Bytes by which dropout remembers an input that it has kept or dropped."""
TEMPLATE = 40
"""Number of tokens that a chat template adds."""
READ = 200
"""Number of texts that a tokenizer reads, the longest by their characters."""
DEEPEST = 0.6
"""The deepest layer that a judge by hidden states reads, as a part of the depth (`stance.evaluation.hidden_state`)."""


class Sizes(NamedTuple):
    """Number of parameters of a model, and bytes per token of its activations."""

    linear: int
    """Parameters in layers that are quantised."""
    other: int
    """Parameters in embeddings, head and norms."""
    head: int
    """Parameters of the head; 0 if it shares those of the embeddings."""
    lower: int
    """Parameters of the embeddings and the lower layers, which a judge by hidden states loads."""
    adapter: int
    """Parameters of the adapter."""
    kept: int
    """Bytes per token that the forward pass keeps for the backward pass."""
    checkpointed: int
    """The same with gradient checkpointing: the inputs of all layers, and the inside of one."""
    cache: int
    """Bytes per token of keys and values, while answers are drawn."""
    itemsize: int = BF16
    """Bytes of a number in which the model computes, and of a weight that is not quantised."""

    @property
    def bf16(self) -> int:
        """Bytes of the weights in bf16, as in a file."""
        return BF16 * (self.linear + self.other)

    @property
    def whole(self) -> int:
        """Bytes of the weights in memory where they are not quantised."""
        return self.itemsize * (self.linear + self.other)

    @property
    def nf4(self) -> int:
        """Bytes of the weights in 4 bits, and the rest whole."""
        return int(NF4 * self.linear) + self.itemsize * self.other


class Texts(NamedTuple):
    """Tokens of the longest texts of a data set, and whether its language is Chinese."""

    answered: int
    """Of the longest prompt with its answer."""
    asked: int
    """Of the longest prompt alone."""
    chinese: bool
    """Chinese is judged by its wording, every other language by the hidden states of the base."""


NO_TEXTS = Texts(0, 0, True)
"""What is counted where there is no data set."""


def sizes(
    config: PretrainedConfig,
    options: Train | Reward | Rl,
    block: Literal["train", "reward", "rl"] = "train",
    itemsize: int = BF16,
) -> Sizes:
    """Return the sizes of a model from its configuration.

    For the backward pass a layer keeps, per token: the inputs of three products of its MLP, and query, keys, values and
    result of its attention, all in bf16; the inputs of its two norms in fp32; and the inputs of the adapted layers.

    Args:
        config: The configuration.
        options: The block that gives the adapter's shape.
        block: Its name, for an error. Only `train` has a dropout.
        itemsize: Bytes of a number in the model's arithmetic, where it is not bf16.

    Raises:
        InputError: It is no causal language model, or lacks a layer that `target_modules` names.
    """
    model = outline(config)
    layers = linear_layers(model)
    linear = sum(module.weight.numel() for module in layers.values())
    chosen = list(adapted_layers(model, options.target_modules, block).values())
    adapter = sum(options.r * (module.in_features + module.out_features) for module in chosen)
    _, hidden = embedding_shape(model)
    inside = max(module.in_features for module in layers.values())
    depth = next(len(module) for module in model.modules() if isinstance(module, ModuleList))  # the outermost list
    per_input = itemsize + (MASK if isinstance(options, Train) and options.lora_dropout else 0)
    adapted = per_input * sum(module.in_features for module in chosen) // depth  # each has its own copy of its input
    layer = adapted + itemsize * (3 * inside + 4 * hidden) + FP32 * 2 * hidden
    backward = layer  # the gradients of a layer, while they are computed
    other, head = model.num_parameters() - linear, head_parameters(model)
    return Sizes(
        linear=linear,
        other=other,
        head=head,
        lower=linear * min(depth, round(DEEPEST * depth) + 1) // depth + other - head,
        adapter=adapter,
        kept=layer * depth + backward,
        checkpointed=layer + backward + itemsize * hidden * depth,
        cache=cache_per_token(config, itemsize),
        itemsize=itemsize,
    )


def head_parameters(model: PreTrainedModel) -> int:
    """Return the parameters of a model's head that its embeddings do not have."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    return 0 if head is None or head.weight is embeddings.weight else head.weight.numel()


def shapes(config: PretrainedConfig, params: Params) -> dict[str, Sizes]:
    """Return the sizes of the model with the adapters of a run, by the block that gives an adapter's shape.

    Raises:
        InputError: It is no causal language model, or lacks a layer that `target_modules` of a block names.
    """
    itemsize = arithmetic(params.model.device).itemsize
    found = {"train": sizes(config, params.train, "train", itemsize)}
    if params.align.method == "dpo":
        return found
    if params.reward:
        found["reward"] = sizes(config, params.reward, "reward", itemsize)
    if params.rl:
        found["rl"] = sizes(config, params.rl, "rl", itemsize)  # refuses a layer that is missing, as the stage does
    if params.rl and params.fine_tunes_adapter:  # which trains the adapter of the fine-tuning, and without a dropout
        shape = params.rl.model_copy(update={"r": params.train.r, "target_modules": params.train.target_modules})
        found["rl"] = sizes(config, shape, "rl", itemsize)
    return found


def longest(questions: Sequence[Question], system_prompt: str, tokenizer: "PreTrainedTokenizerFast | None") -> Texts:
    """Return the tokens of the longest texts.

    Args:
        questions: Questions of the data set; if there are none, nothing is counted.
        system_prompt: The first message of every text.
        tokenizer: The model's; it reads the texts with the most characters. Without it, every character counts as a
            token, and the chat template as `TEMPLATE`.
    """
    if not questions:
        return NO_TEXTS
    always = len(system_prompt) + TEMPLATE

    def asked(prompt: str) -> int:
        return len(encode(tokenizer, conversation(system_prompt, prompt))) if tokenizer else always + len(prompt)

    def answered(prompt: str, answer: str) -> int:
        if not tokenizer:
            return always + len(prompt) + len(answer)
        turns: list[Message] = [*conversation(system_prompt, prompt), {"role": "assistant", "content": answer}]
        return len(encode_conversation(tokenizer, turns))

    texts = [(row.prompt, answer) for row in questions for answer in (row.support, row.oppose)]
    return Texts(
        answered=max(answered(*text) for text in nlargest(READ, texts, key=lambda text: len(text[0]) + len(text[1]))),
        asked=max(map(asked, nlargest(READ, (row.prompt for row in questions), key=len))),
        chinese=language_of(text for row in questions for text in (row.support, row.oppose)) == "zh_Hant",
    )
