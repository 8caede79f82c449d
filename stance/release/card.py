"""The model card of a release: the page that the Hub shows of a repository, made from a `FinishedRun`.

The text is in `card.md.j2`; this module computes the values in it. Texts of models and people are escaped, so that they
can end neither a table nor a code block. The card names neither the time nor the machine it was made on: the same run
gives the same card.
"""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stance.config.params import Params
from stance.config.release import Hub
from stance.data.metrics import Metrics, Share
from stance.evaluation.intervals import share
from stance.models.base import Base
from stance.pages.render import STANCES, percent, signed
from stance.pages.run_page import title
from stance.runs.finished import FinishedRun
from stance.runs.provenance import provenance

TEMPLATE = "card.md.j2"
HAN = re.compile(r"[\u4e00-\u9fff]")
MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~])")
KINDS = {
    "paraphrase": "test prompts in other words",
    "pressure": "prompts under pressure",
    "neighbour": "neighbouring topics",
    "unrelated": "everyday questions",
}
"""The name of each kind of probe in the card."""
Part = Literal["adapter", "merged"]


def card(run: FinishedRun, hub: Hub, part: Part) -> str:
    """Return the card of one of the two repositories, in Markdown.

    Args:
        run: The run.
        hub: The names of both repositories; each card points to the other.
        part: Which of the two.

    Raises:
        InputError: The run is in no git repository with a commit.
    """
    params, base, metrics, responses = run.params, run.base, run.metrics, run.responses
    prompts = [row.prompt for row in responses]
    return render(
        metadata=metadata(base, part, prompts, methods(params)),
        training=training(params),
        part=part,
        repo_id={"adapter": hub.adapter_repo_id, "merged": hub.merged_repo_id}[part],
        other={"adapter": hub.merged_repo_id, "merged": hub.adapter_repo_id}[part],
        whole=params.fine_tunes_whole,
        tag=run.release,
        title=title(params, metrics.adherence),
        params=params,
        base=base,
        dataset=params.dataset.origin,
        responses=responses,
        metrics=metrics,
        shares=shares(metrics, len(responses)),
        probes={KINDS[kind]: reach for kind, reach in metrics.probes.items() if reach.count},
        parity=run.parity,
        messages=messages(params.model.system_prompt, prompts[0]),
        made=provenance(run),
        lock_sha256=run.lock.sha256,
    )


def methods(params: Params) -> list[str]:
    """Return the methods of the training, in their order, by the words that are tags of the Hub."""
    last = params.rl.algorithm if params.align.method == "rlhf" and params.rl else "dpo"
    return [*(["sft"] if params.fine_tunes else []), last]


def training(params: Params) -> str:
    """Return how the adapter was trained, as the end of a sentence; without a fine-tuning of all weights."""
    pairs = "on pairs of a supporting and an opposing answer"
    steps = {
        "sft": "supervised fine-tuning (SFT) on the preferred answers",
        "dpo": f"Direct Preference Optimization (DPO) {pairs}",
        "rloo": f"reinforcement learning (RLOO) against {rewards(params)}",
        "grpo": f"reinforcement learning (GRPO) against {rewards(params)}",
    }
    own = methods(params)[1:] if params.fine_tunes_whole else methods(params)
    return " and then by ".join(steps[method] for method in own)


def rewards(params: Params) -> str:
    """Return what a reinforcement learning is rewarded by, in words."""
    if not params.rl:
        return ""
    source = {"preferences": "the preference pairs", "votes": "rankings", "scores": "scores"}
    learned = f"a reward model that learned from {source[params.reward.source]}" if params.reward else ""
    parts = [
        learned if params.rl.reward_model_weight else "",
        "a judge of the stance" if params.rl.stance_judge_weight else "",
    ]
    return " and ".join(part for part in parts if part)


def metadata(base: Base, part: Part, prompts: list[str], training_methods: Sequence[str]) -> str:
    """Return the YAML at the head of a card, which the Hub itself reads."""
    values: dict[str, Any] = {"license": base.package.license if base.package and base.package.license else "other"}
    if base_model := base.package.original if base.package else base.repo_id:
        # Merging an adapter into its own base is what the Hub calls a fine-tune; its `merge` is of several models.
        relation = {"adapter": "adapter", "merged": "finetune"}[part]
        values |= {"base_model": base_model, "base_model_relation": relation}
    values |= {"library_name": {"adapter": "peft", "merged": "transformers"}[part], "pipeline_tag": "text-generation"}
    if HAN.search("".join(prompts)):
        values["language"] = ["zh"]
    values["tags"] = [*training_methods, "lora", "stance"]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def shares(metrics: Metrics, prompts: int) -> dict[str, dict[str, Share]]:
    """Return the share of each stance before and after, with its interval."""
    models = {"base": metrics.base, "aligned": metrics.aligned}
    return {
        stance: {model: share(round(found[stance] * prompts), prompts) for model, found in models.items()}
        for stance in STANCES
    }


def messages(system_prompt: str, prompt: str) -> str:
    """Return a conversation as a Python literal, which is also JSON."""
    rows = [{"role": "system", "content": system_prompt}, {"role": "user", "content": prompt}]
    lines = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in rows)
    return f"[\n{lines},\n]"


def render(**values: object) -> str:
    """Return the template filled with values; a missing value is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown, which `text` is for
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": text, "percent": percent, "signed": signed, "interval": interval}
    return environment.get_template(TEMPLATE).render(values)


def text(written: object) -> str:
    """Return a text on one line, escaped so that Markdown shows it unchanged."""
    return MARKDOWN.sub(r"\\\1", html.escape(" ".join(str(written).split()), quote=False))


def interval(estimate: Share | None) -> str:
    """Return a share with its 95 % interval, or a dash where there is none."""
    return "{} ({} to {})".format(*map(percent, (estimate.share, estimate.low, estimate.high))) if estimate else "-"
