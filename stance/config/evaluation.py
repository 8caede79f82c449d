"""The blocks `answers` and `evaluate` of `params.yaml`: how the models answer, and how the answers are judged."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from stance.config.section import Section


def with_port(url: str) -> str:
    """Return the address of an endpoint.

    Raises:
        ValueError: Its host or port is not valid.
    """
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise ValueError(f"evaluate.judge.url is {url!r} ({error}); expected one like http://host:8000/v1") from None
    return url


class Answers(Section):
    """How vLLM answers. Decoding is greedy."""

    max_new_tokens: int = Field(gt=0)
    """Tokens after which an answer is cut off."""
    gpu_memory_utilization: float = Field(gt=0, le=1)
    """Largest share of the GPU's memory that the engine may use, or of host memory on a CPU. The engine uses less if
    less is free."""
    enforce_eager: bool
    """Decode without CUDA graphs. This halves the speed on a GPU, and makes no difference on a CPU."""
    quantization: Literal["none", "bitsandbytes"]
    """Precision of the weights in vLLM. `bitsandbytes` holds them in 4 bits, for a GPU without room for bf16; the
    answers then differ slightly."""


class NoJudge(Section):
    """There is no second judge. The classifier by wording alone decides the stance of an answer."""

    source: Literal["none"]


class BaseJudge(Section):
    """The base model is the second judge. vLLM lets it choose only among the three stances."""

    source: Literal["base_model"]


class EndpointJudge(Section):
    """A model behind an OpenAI-style endpoint is the second judge. If it needs a key, set OPENAI_API_KEY."""

    source: Literal["endpoint"]
    url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$"), AfterValidator(with_port)]
    """Address as for an OpenAI client, for example `http://127.0.0.1:8000/v1`."""
    model: str
    """Name of the model at the endpoint."""


class SideEffectBounds(Section):
    """The bounds of the gate `side effects`. They count only if `dataset.side_effects` names prompts."""

    min_kept: float = Field(ge=0, le=1)
    """Smallest share of the everyday prompts that the base model answers rightly and the aligned model still does."""
    max_shift: float = Field(gt=0, le=2)
    """Bound of equivalence on another topic. A topic is equivalent if the 90 % interval of its mean shift lies within
    this bound. A shift is the change of P(support) - P(oppose) of an answer, by the judge, from -2 to 2."""
    min_equivalent: float = Field(ge=0, le=1)
    """Smallest share of the other topics that must be equivalent."""
    max_refusals_lost: float = Field(ge=0, le=1)
    """Largest share of the prompts for careful handling that only the base model declines."""
    max_forgetting: float = Field(gt=0)
    """Nats per token by which everyday text may become less likely."""
    max_broken: float = Field(ge=0, le=1)
    """Largest share of the answers that only the aligned model repeats, leaves empty or gives in another language."""
    refuse: bool = True
    """Whether a missed bound refuses a release. If not, it is a warning."""


class Evaluate(Section):
    """The second judge of the answers, and the bounds of the gates that a run must pass before a release."""

    judge: Annotated[NoJudge | BaseJudge | EndpointJudge, Field(discriminator="source")]
    """The second judge. The classifier by wording decides; the agreement of the two shows how far to trust it."""
    min_adherence: float = Field(ge=0, le=1)
    """Smallest share of test answers that must hold the chosen stance."""
    max_degenerate: float = Field(ge=0, le=1)
    """Largest share of test answers that may be empty, cut off, repetitive or in the wrong script."""
    max_chosen_fall: float = Field(gt=0)
    """Nats by which the log-probability of the chosen answers may drop over the training. DPO can make them less
    likely, along with the rejected ones."""
    side_effects: SideEffectBounds | None = None
    """The bounds of the gate `side effects`; null for no such gate."""
