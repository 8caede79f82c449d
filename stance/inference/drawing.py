"""vLLM draws the answers of a reinforcement learning: an engine that takes the policy's adapter anew in every step.

In: the base, and an adapter for every draw. Out: the answers as token ids, each with the engine's log-probabilities, by
which the engine is held against the policy.

Particular: only the adapter is handed over, so that the base is never merged or rounded again. The engine's base has
the weights that the policy has, 4-bit weights rounded to bf16 (`stance.training.merging.write_dequantized`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stance.config.evaluation import Answers
from stance.config.models import Model
from stance.data.reinforcement import Drawn
from stance.inference.batch import (
    decoding_settings,
    engine_settings,
    lora_request,
    lora_settings,
    require_window,
    sampling_params,
    start_engine,
)
from stance.inference.sampling import seed_of, token_logps


class PolicyEngine:
    """An engine that answers as a policy."""

    def __init__(self, folder: Path, model: Model, options: Answers, rank: int, lengths: Sequence[int]) -> None:
        """Start the engine.

        Args:
            folder: The base, in bf16.
            model: Its device.
            options: The block `answers`: how much memory the engine may take, and whether it records CUDA graphs.
            rank: The rank of the adapters.
            lengths: Most tokens of every sequence of a draw, prompt and answer together.

        Raises:
            InputError: A sequence is longer than the model can read, or model and cache do not fit into free memory.
        """
        require_window(folder, max(lengths))
        settings = engine_settings(folder, model, options, lengths) | decoding_settings(options, len(lengths))
        settings |= lora_settings(rank) | {"logprobs_mode": "processed_logprobs"}  # those of the temperature
        self.engine, self.draws = start_engine(folder, settings), 0

    def draw(self, adapter: Path, prompts: Sequence[Sequence[int]], settings: dict[str, Any], seed: int) -> list[Drawn]:
        """Return an answer to every prompt, drawn from the base with an adapter.

        Args:
            adapter: The adapter as it is now; its files are read at every draw.
            prompts: Token ids of every prompt.
            settings: Arguments of vLLM's `SamplingParams`, for all prompts alike.
            seed: Decides the answers, together with the number of the draw and the place of the prompt.
        """
        from vllm import TokensPrompt

        self.draws += 1
        sampling = [
            sampling_params(**settings, logprobs=0, seed=seed_of(seed, self.draws, place))
            for place in range(len(prompts))
        ]
        inputs = [TokensPrompt(prompt_token_ids=list(ids)) for ids in prompts]
        lora = lora_request(adapter, self.draws)
        outputs = self.engine.generate(inputs, sampling, use_tqdm=False, lora_request=lora)
        completions = [output.outputs[0] for output in outputs]
        return [Drawn(list(each.token_ids), token_logps(each)) for each in completions]
