"""The blocks `answers` and `evaluate`."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from stance.config.section import Section


def with_port(url: str) -> str:
    """Return an address; raise ValueError if its host or port is none."""
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise ValueError(f"evaluate.judge.url is {url!r} ({error}); expected one like http://host:8000/v1") from None
    return url


class Answers(Section):
    """Greedy answers with vLLM."""

    max_new_tokens: int = Field(gt=0)
    gpu_memory_utilization: float = Field(gt=0, le=1)
    """Upper bound of the engine's share of GPU memory (of host memory on a CPU); less is used if less is free."""
    enforce_eager: bool
    """Decode without CUDA graphs, at half the speed. A CPU has none."""
    quantization: Literal["none", "bitsandbytes"]
    """vLLM's weights: as they are, or in 4 bits where bf16 does not fit; these answer slightly differently."""


class NoJudge(Section):
    """The wording alone decides what stance an answer takes."""

    source: Literal["none"]


class BaseJudge(Section):
    """The base model reads every answer as well, with vLLM; its choice is bound to the three stances."""

    source: Literal["base_model"]


class EndpointJudge(Section):
    """A model behind an OpenAI-style endpoint reads every answer as well; its key, if any, is OPENAI_API_KEY."""

    source: Literal["endpoint"]
    url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$"), AfterValidator(with_port)]
    """As an OpenAI client takes it, like `http://127.0.0.1:8000/v1`."""
    model: str
    """The name that the endpoint knows it by."""


class Evaluate(Section):
    """The second judge, and the bounds of the gates."""

    judge: Annotated[NoJudge | BaseJudge | EndpointJudge, Field(discriminator="source")]
    """Who reads the answers besides the judge by wording, which decides: agreement is a check on it."""

    min_adherence: float = Field(ge=0, le=1)
    """Share of test answers that must hold the chosen stance."""
    max_degenerate: float = Field(ge=0, le=1)
    """Share of test answers that may be empty, cut off, repetitive or in the wrong script."""
    max_chosen_fall: float = Field(gt=0)
    """Nats by which `logps/chosen` may fall over the training (DPO can lower it along with the rejected answer's)."""
