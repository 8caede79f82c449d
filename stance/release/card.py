"""The model card of a release: what the Hub shows of a repository, made from the files of the run.

Text is in `card.md.j2`; the values that it shows are made here. What models and people wrote is escaped: it can neither
end a table nor a code block. The card says neither when nor where it was made.
"""

import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stance.config.params import Params
from stance.config.release import Hub
from stance.data.answers import read_responses
from stance.errors import InputError
from stance.evaluation.intervals import share
from stance.machine.files import read_json
from stance.models.base import Base
from stance.pages.render import STANCES, percent, signed
from stance.pages.run_page import title
from stance.runs.provenance import provenance, release_id

TEMPLATE = "card.md.j2"
HAN = re.compile(r"[\u4e00-\u9fff]")
MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~])")
KINDS = {
    "paraphrase": "test prompts in other words",
    "pressure": "prompts under pressure",
    "neighbour": "neighbouring topics",
    "unrelated": "everyday questions",
}
"""What a kind of probe is called."""
Part = Literal["adapter", "merged"]


def card(run: Path, hub: Hub, part: Part) -> str:
    """Return the card of the repository that gets the adapter, or of the one that gets the merged model.

    Args:
        run: The project, or a workspace of it, with every stage finished.
        hub: The names of both repositories; each card points to the other.
        part: Which of the two.

    Raises:
        InputError: The run is not finished, or is in no git repository.
    """
    params, base = Params.load(run / "params.yaml"), Base.read(run / "data/base")
    evaluation = run / "data/evaluation"
    responses = read_responses(evaluation / "responses.json")
    metrics = _read(evaluation / "metrics.json")
    prompts = [row.prompt for row in responses]
    return render(
        metadata=metadata(base, part, prompts),
        part=part,
        repo_id={"adapter": hub.adapter_repo_id, "merged": hub.merged_repo_id}[part],
        other={"adapter": hub.merged_repo_id, "merged": hub.adapter_repo_id}[part],
        tag=release_id(run),
        title=title(params, metrics["adherence"]),
        params=params,
        base=base,
        dataset=params.dataset.origin,
        responses=responses,
        metrics=metrics,
        shares=shares(metrics, len(responses)),
        probes={KINDS[kind]: found for kind, found in metrics["probes"].items() if found["count"]},
        parity=_read(run / "data/merge/parity.json"),
        messages=messages(params.model.system_prompt, prompts[0]),
        made=provenance(run),
        lock_sha256=hashlib.sha256((run / "dvc.lock").read_bytes()).hexdigest(),
    )


def metadata(base: Base, part: Part, prompts: list[str]) -> str:
    """Return what the Hub itself reads of a card, as YAML."""
    values: dict[str, Any] = {"license": "other"}
    if base.source == "hub":
        # Merging an adapter into its own base is what the Hub calls a fine-tune; its `merge` is of several models.
        relation = {"adapter": "adapter", "merged": "finetune"}[part]
        values |= {"base_model": base.repo_id, "base_model_relation": relation}
    values |= {"library_name": {"adapter": "peft", "merged": "transformers"}[part], "pipeline_tag": "text-generation"}
    if HAN.search("".join(prompts)):
        values["language"] = ["zh"]
    values["tags"] = ["dpo", "lora", "stance"]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def shares(metrics: dict[str, Any], prompts: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return the share of each stance before and after, with its interval."""
    return {
        stance: {model: share(round(metrics[model][stance] * prompts), prompts) for model in ("base", "aligned")}
        for stance in STANCES
    }


def messages(system_prompt: str, prompt: str) -> str:
    """Return a conversation as Python code has it, which is also JSON."""
    rows = [{"role": "system", "content": system_prompt}, {"role": "user", "content": prompt}]
    lines = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in rows)
    return f"[\n{lines},\n]"


def render(**values: object) -> str:
    """Fill the template; a name that it uses and that is not given is an error."""
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
    """Return a text so that Markdown shows it as it is, in one line."""
    return MARKDOWN.sub(r"\\\1", html.escape(" ".join(str(written).split()), quote=False))


def interval(found: dict[str, float] | None) -> str:
    """Return a share with its 95 % interval."""
    return "{} ({} to {})".format(*(percent(found[key]) for key in ("share", "low", "high"))) if found else "-"


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a finished run: `make repro` first") from None
