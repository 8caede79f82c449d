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


class Evaluate(Section):
    """The second judge of the answers, and the bounds of the gates that a run must pass before a release."""

    judge: Annotated[NoJudge | BaseJudge | EndpointJudge, Field(discriminator="source")]
    """The second judge. The classifier by wording decides; the agreement of the two shows how far to trust it."""
    min_adherence: float = Field(ge=0, le=1)
    """Smallest share of test answers that must hold the chosen stance."""
    max_degenerate: float = Field(ge=0, le=1)
    """Largest share of test answers that may be empty, cut off, repetitive or in the wrong script."""
    max_chosen_fall: float = Field(gt=0)
    """Nats by which `logps/chosen` may drop over the whole training. DPO can make the chosen answers less likely, along
    with the rejected ones."""
