"""The smoke test after a release: the public endpoint must serve the release, and answer one question."""

from stance.client.endpoint import Endpoint, explaining, provenance
from stance.client.local import ALIGNED, key_place, read_key
from stance.config.params import Params
from stance.data.chat import conversation
from stance.errors import InputError


def smoke(address: str, release: str, params: Params, prompt: str) -> dict[str, str]:
    """Check which release the endpoint serves, and ask it a prompt under both of its model names.

    Args:
        address: The URL for an OpenAI client, ending in `/v1`.
        release: The release that must answer.
        params: The parameters of the run: its system prompt and the length of its answers.
        prompt: The question.

    Returns:
        `release`, `address`, `prompt` and `answer`.

    Raises:
        InputError: Another release answers, or the answer is empty.
        Unreachable: Nothing answers at the address.
    """
    endpoint = Endpoint(address, read_key(), key_place())
    answering = provenance(endpoint).get("release")
    if answering != release:
        raise InputError(
            f"{address} answers with {answering}; expected {release}: `python -m stance serve status` shows what is up"
        )
    answers = {ask(endpoint, model, params, prompt) for model in (ALIGNED, release)}
    return {"release": release, "address": address, "prompt": prompt, "answer": answers.pop()}


def ask(endpoint: Endpoint, model: str, params: Params, prompt: str) -> str:
    """Return the greedy answer to a prompt.

    Raises:
        InputError: The answer is empty.
    """
    with explaining(endpoint, model), endpoint.client() as client:
        completion = client.chat.completions.create(
            model=model,
            messages=conversation(params.model.system_prompt, prompt),  # type: ignore[arg-type]
            max_tokens=params.answers.max_new_tokens,
            temperature=0,
        )
        answer = completion.choices[0].message.content or ""
    if not answer.strip():
        raise InputError(
            f"{endpoint.url} gives an empty answer to {prompt!r}; expected a sentence: go back to the previous model "
            "with `python -m stance serve rollback`"
        )
    return answer
