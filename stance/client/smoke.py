"""The first question after a release, asked as any client would: who answers, and does it?"""

from pathlib import Path

from stance.client.endpoint import Endpoint, provenance, sentences
from stance.client.local import ALIGNED, key_place, read_key
from stance.config.params import Params
from stance.data.chat import conversation
from stance.data.questions import read_prompts
from stance.errors import InputError


def smoke(address: str, release: str, run: Path) -> dict[str, str]:
    """Ask the public endpoint which release it serves, and the first test prompt by both of its names.

    Args:
        address: As an OpenAI client takes it.
        release: The one that has to answer.
        run: Its folder, for the prompt.

    Returns:
        `release`, `address`, `prompt` and `answer`.

    Raises:
        InputError: Another release answers, or this one says nothing.
        Unreachable: Nothing answers.
    """
    at = Endpoint(address, read_key(), key_place())
    answering = provenance(at).get("release")
    if answering != release:
        raise InputError(
            f"{address} answers with {answering}; expected {release}: `python -m stance serve status` says what is up"
        )
    params = Params.load(run / "params.yaml")
    prompt = read_prompts(run / "data/dataset")[0].prompt
    said = {ask(at, model, params, prompt) for model in (ALIGNED, release)}
    return {"release": release, "address": address, "prompt": prompt, "answer": said.pop()}


def ask(at: Endpoint, model: str, params: Params, prompt: str) -> str:
    """Return the greedy answer to a prompt, which is none that is empty."""
    with sentences(at, model), at.client() as client:
        found = client.chat.completions.create(
            model=model,
            messages=conversation(params.model.system_prompt, prompt),  # type: ignore[arg-type]
            max_tokens=params.answers.max_new_tokens,
            temperature=0,
        )
        said = found.choices[0].message.content or ""
    if not said.strip():
        raise InputError(
            f"{at.url} answers {prompt!r} with nothing; expected a sentence: `python -m stance serve rollback`"
        )
    return said
