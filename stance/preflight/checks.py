"""The checks before a run. They report every problem that would stop the run later.

`make repro` and every flow run the checks first. The checks compare the parameters with the data, the model with this
machine, the weights in a local folder with their configuration, and the rights of the token with a push. The result is
a table for people, or JSON with `--json`. All failures are also one line on standard error.
"""

import getpass
import json
import logging
import math
import os
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from stance.config.data import FolderDataset, GitDataset
from stance.config.models import FolderBase, HubBase, MiniatureBase, Model, PackageBase
from stance.config.params import Params
from stance.config.profiles import complete
from stance.data.chat import BREEZE_TOKENS, control_tokens, refuse_control_tokens
from stance.data.pairs import linted, split, training_pairs
from stance.data.questions import (
    LABELLED,
    TEST,
    Prompt,
    Question,
    named_texts,
    numbers_in_words,
    read_both,
    read_probes,
    table_in_json,
    unused_columns,
)
from stance.data.samples import SAMPLES
from stance.data.side_effects import read_side_folder
from stance.data.sources import source_folder
from stance.errors import InputError, Unreachable
from stance.language.messages import sentence
from stance.machine.files import digest, from_project, read_json, read_yaml
from stance.machine.memory import GIB, gib
from stance.machine.ports import HOST, answers, in_use
from stance.preflight.road import require_road

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from stance.preflight.sizes import Sizes, Texts


MINIATURE = GIB
"""Bytes of disk that are enough for a run of the miniature."""
SHOWN = 3
"""Number of packages that a warning names."""
COLOURS = {"ok": "green", "warning": "yellow", "fails": "red"}


class Row(NamedTuple):
    """A check and its result."""

    check: str
    verdict: Literal["ok", "warning", "fails"]
    found: str
    expected: str = ""
    """What was expected or, after a failure, what to do next."""
    error: InputError | None = None
    """The complete error if the check fails."""


def preflight(params: Params, dataset: Path, base: Path) -> list[Row]:
    """Check the parameters against the data, the machine and the Hub. A failed check does not stop the others.

    Args:
        params: All of them.
        dataset: `data/dataset`. If it already holds the configured commit, git is not asked.
        base: `data/base`. If it already records the configured model, the Hub is not asked.
    """
    rows = [Row("parameters", "ok", "params.yaml is complete and in range")]
    with failing(rows, "user"):
        require_user_name()
    questions: list[Question] = []
    prompts: list[Prompt] = []
    with failing(rows, "data"):
        questions, prompts, unused = read_data(params, dataset)
        rows += [Row("data", "warning", column, "misspelled names corrected") for column in unused]
        used, held_out = split(questions, params.pairs.data_size, params.pairs.offset)
        # The linter imports scikit-learn, which takes seconds; so do the checks of every base but the miniature.
        if params.pairs.strict or params.base.source != "miniature":
            rows += lint_rows(params, used, held_out, prompts)
        if params.dataset.probes:
            read_probes(from_project(params.dataset.probes))
        if params.dataset.side_effects:
            read_side_folder(from_project(params.dataset.side_effects), params.dataset.topic)
        rows.append(
            Row("data", "ok", f"parameters fit the data: {len(questions)} questions, {len(prompts)} test prompts")
        )
    if questions and (params.align.method == "rlhf" or params.sft):
        with failing(rows, "road"):
            road = require_road(params, questions, Path("data/sources/votes"), SAMPLES)
            rows.append(Row("road", "ok", road))
    if params.model.device == "cuda":
        with failing(rows, "device"):
            rows.append(check_device(params.model))
    rows += check_model(params, questions, base, prompts)
    rows.append(check_packages(Path(sys.prefix) / "installed"))
    if params.hub.push:
        with failing(rows, "token"):
            rows.append(check_token())
    return [*rows, check_port(os.environ.get("PORT") or "4200")]


def require_user_name() -> None:
    """Refuse a user id without a name, which DVC cannot work under.

    Raises:
        InputError: Neither the system nor the environment names the user.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        raise InputError(
            f"the user id {os.getuid()} has no name here, and DVC needs one; `export USER=me`, or run `make repro`"
        ) from None


@contextmanager
def failing(rows: list[Row], check: str) -> Iterator[None]:
    """Turn an `InputError` into a row, so that the other checks still run."""
    try:
        yield
    except InputError as error:
        *found, expected = str(error).split("; ")
        rows.append(Row(check, "fails", "\n".join(found) or expected, expected if found else "", error))


def read_data(params: Params, dataset: Path) -> tuple[list[Question], list[Prompt], list[str]]:
    """Return the questions and test prompts of the configured data set, and a sentence about columns without a use."""
    source = params.dataset
    if isinstance(source, GitDataset) and _is_here(source, dataset):
        return *read_both(dataset), unused_columns(dataset)
    with source_folder(source) as folder:
        questions, prompts = read_both(folder)
        if isinstance(source, FolderDataset):
            _check_seen_by_dvc(source, dataset)
        return questions, prompts, unused_columns(folder)


def lint_rows(
    params: Params, used: Sequence[Question], held_out: Sequence[Question], prompts: Sequence[Prompt]
) -> list[Row]:
    """Return what the linter says about the questions to train on, those held out and the test prompts.

    Raises:
        InputError: There is a warning, and `pairs.strict` is true.
    """
    train = training_pairs(used, params.pairs, params.model.system_prompt, params.seed)
    warnings = [
        Row("data", "warning", f"{warning.check}: {sentence(warning.message)}", f"ids {numbers_in_words(warning.rows)}")
        for warning in linted(train, prompts, params.pairs, params.model.system_prompt, held_out)
    ]
    return warnings or [Row("data", "ok", "the linter finds nothing in the pairs and the test prompts")]


def check_device(model: Model) -> Row:
    """Look for a suitable GPU."""
    import torch  # takes two seconds, which a profile for a CPU can spare

    from stance.models.loading import require_device, require_devices

    require_device(model)
    require_devices(model)
    several = f"{model.devices} x " if model.devices > 1 else ""
    return Row("device", "ok", f"{several}{torch.cuda.get_device_name()}")


def check_model(
    params: Params, questions: Sequence[Question], recorded: Path, prompts: Sequence[Prompt] = ()
) -> list[Row]:
    """Check the base model before a run: size, layers, chat template, memory on this machine, and files in a folder.

    Args:
        params: All of them.
        questions: Questions of the data set; empty if the data set cannot be read.
        recorded: `data/base`.
        prompts: Test prompts of the data set.
    """
    rows: list[Row] = []
    texts = {"model.system_prompt": params.model.system_prompt, **named_texts(questions, prompts)}
    if isinstance(params.base, MiniatureBase):
        with failing(rows, "data"):
            refuse_control_tokens(BREEZE_TOKENS, texts, "the miniature")
        with failing(rows, "disk"):
            rows.append(check_disk(shutil.disk_usage(".").free))
        return rows
    from stance.preflight import footprint
    from stance.preflight.sizes import shapes

    with failing(rows, "base model"):
        folder = footprint.describing(params.base, recorded)
        found = shapes(footprint.configuration(folder), params)
        size = found["train"]
        require_parts(params.model, footprint.configuration(folder))
        rows.append(Row("base model", "ok", f"{(size.linear + size.other) / 1e9:.2f} billion parameters"))
        with failing(rows, "chat template"):
            rows.append(check_template(params.base, folder, texts))
        texts_read, _ = footprint.lengths(questions, params.model.system_prompt, folder)
        rows += check_fit(params, found, texts_read)
        if isinstance(params.base, FolderBase):
            with failing(rows, "weights"):
                rows.append(check_weights(folder))
    return rows


def require_parts(model: Model, config: "PretrainedConfig") -> None:
    """Refuse a number of devices that a model which answers cannot be split over: vLLM splits it by attention heads.

    Raises:
        InputError: The heads cannot be shared evenly.
    """
    text = config.get_text_config()
    heads, parts = int(text.num_attention_heads), model.parts
    groups = int(getattr(text, "num_key_value_heads", None) or heads)
    fits = [n for n in range(1, heads + 1) if heads % n == 0 and (groups % n == 0 or n % groups == 0)]
    if parts not in fits:
        raise InputError(
            f"model.devices is {parts} and the base model has {heads} attention heads and {groups} key-value heads, "
            f"which vLLM cannot share evenly; set it to one of {', '.join(map(str, fits))}"
        )


def check_template(
    base: FolderBase | HubBase | PackageBase, folder: Path, texts: Mapping[str, str] = MappingProxyType({})
) -> Row:
    """Check the chat template, and look for control tokens of the model in the texts of the data.

    The tokenizer of a local folder is loaded, and its template must keep the system prompt. For a model on the Hub,
    only the configuration of the tokenizer is read. For a model in a package, the texts are checked after the stage
    `base` has converted the model.

    Args:
        base: Where the model comes from.
        folder: The folder or GGUF file that `footprint.describing` returns.
        texts: The texts of the data by a name for messages.

    Raises:
        InputError: There is no template, the template loses the system prompt, or a text holds a control token.
    """
    if isinstance(base, FolderBase):
        from stance.models.intake import checked_tokenizer

        tokens = control_tokens(checked_tokenizer(folder, base.origin))
    elif isinstance(base, PackageBase):
        from stance.models.package import read_metadata

        if folder.is_file():  # else the base stage has converted it, and refuses a file without a template
            read_metadata(folder)
        tokens = set() if folder.is_file() else _configured_tokens(folder)
    elif not _has_template(folder):
        raise InputError(
            f"{base.repo_id} has no chat template; expected a chat model: choose one with `chat_template` in its "
            "tokenizer_config.json, or with a file chat_template.jinja"
        )
    else:
        tokens = _configured_tokens(folder)
    refuse_control_tokens(tokens, texts, base.origin)
    return Row("chat template", "ok", "the tokenizer has one")


def check_weights(folder: Path) -> Row:
    """Read the headers of the weights in a local folder, and compare them with configuration and tokenizer.

    Raises:
        InputError: A file is damaged, or the weights are not those of the model that the configuration describes.
    """
    from stance.data.chat import load_tokenizer
    from stance.models.intake import checked_files, require_fitting_weights

    _, shapes = checked_files(folder)
    require_fitting_weights(folder, shapes, load_tokenizer(folder), str(folder))
    return Row("weights", "ok", f"{len(shapes)} weights as the configuration describes")


def _configured_tokens(folder: Path) -> set[str]:
    """Return the control tokens that the configuration of a tokenizer names."""
    from stance.preflight.footprint import TOKENIZER

    values = read_json(folder / TOKENIZER) if (folder / TOKENIZER).is_file() else {}
    added = (values.get("added_tokens_decoder") or {}).values()
    ends = [values.get(f"{name}_token") for name in ("bos", "eos", "pad")]
    names = [token.get("content") if isinstance(token, dict) else token for token in ends]
    return {str(name) for name in [*names, *(token["content"] for token in added if token.get("special"))] if name}


def check_fit(params: Params, found: Mapping[str, "Sizes"], texts: "Texts") -> list[Row]:
    """Compare the needs of the stages with this machine: a row for each kind of memory, and one for the disk.

    Without a data set, `texts` counts nothing: what does not fit then, fits with none.
    """
    from stance.preflight import footprint
    from stance.preflight.stages import needs

    here = footprint.available(params.model.device)
    if not here.gpu:
        here = here._replace(gpu=math.inf)  # a missing GPU has a row of its own
    stages = needs(params, found, texts, here)
    rows: list[Row] = []
    for kind, size_here, *takes in zip(footprint.KINDS, here, *stages.values(), strict=True):
        if math.isinf(size_here):
            continue
        with failing(rows, kind):
            footprint.check(params, found, texts, here, [kind])
            most, stage = max(zip(takes, stages, strict=True))
            rows.append(Row(kind, "ok", f"{gib(size_here)} GiB", f"about {gib(most)} GiB for {stage}"))
    return rows


def check_disk(free: int) -> Row:
    """Compare the free bytes of the disk with the need of the miniature."""
    available, enough = f"{gib(free)} GiB", f"{MINIATURE / GIB:.0f} GiB or more"
    if free < MINIATURE:
        raise InputError(f"the disk has {available} free; expected {enough}: make room")
    return Row("disk", "ok", available, enough)


def check_packages(installed: Path) -> Row:
    """Compare the installed packages with their pins.

    Args:
        installed: Folder with copies of the requirements files that this environment was installed from.
    """
    files = sorted(installed.glob("*.txt"))
    if not files:
        made = "one that `make repro` makes in .venv"
        return Row("packages", "warning", "make has not made this environment, so its packages cannot be checked", made)
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    pins = [Requirement(line.partition(" #")[0]) for line in lines if line[:1].isalnum()]
    different = [text for pin in pins if (text := _difference(pin))]
    if different:
        more = f"; and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        what = "the pinned ones: remove .venv, and `make repro` makes it anew"
        return Row("packages", "warning", "; ".join(different[:SHOWN]) + more, what)
    return Row("packages", "ok", f"{len(pins)} packages as pinned in {' and '.join(file.name for file in files)}")


def check_token() -> Row:
    """Ask the Hub whether your token may write.

    Raises:
        InputError: There is no token, or it may not write.
        Unreachable: The Hub does not answer.
    """
    from huggingface_hub import constants, get_token  # takes 0.3 s, which a run without a push can spare

    from stance.models.hub import whoami

    next_step = f"make one that may write at {constants.ENDPOINT}/settings/tokens, then `hf auth login` or set HF_TOKEN"
    token = get_token()
    if not token:
        raise InputError(f"hub.push is true and there is no token for the Hub; {next_step}")
    who = whoami(token)
    if not who:
        raise InputError(f"{constants.ENDPOINT} does not accept your token; {next_step}")
    access = who.get("auth", {}).get("accessToken")
    if not access:  # a login in the browser
        return Row("token", "warning", f"{who['name']}'s login does not say what it may do", "one that may write")
    if not may_write(access):
        raise InputError(f"{who['name']}'s token has the role {access['role']} and may not write; {next_step}")
    return Row("token", "ok", f"{who['name']}'s token may write")


def may_write(access: Mapping[str, Any]) -> bool:
    """Does a token, as the Hub describes it, allow writing to some repository?"""
    if access["role"] != "fineGrained":
        return bool(access["role"] != "read")
    return any("repo.write" in scope["permissions"] for scope in access["fineGrained"]["scoped"])


def check_port(port: str) -> Row:
    """Check whether `make ui` can use its port. A run needs no port."""
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        return Row("port", "warning", f"PORT is {port!r}", "a number from 1 to 65535, for the UI: make ui PORT=4200")
    if not in_use(int(port)):
        return Row("port", "ok", f"{port} is free for the UI")
    if answers(f"http://{HOST}:{port}/api/admin/version"):  # /api/health exists in other programs, too
        return Row("port", "ok", f"the Prefect server is up at http://{HOST}:{port}")
    return Row("port", "warning", f"{port} is in use by another program", f"for the UI: make ui PORT={int(port) + 100}")


def table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table for people."""
    drawn = Table("check", "verdict", *(Column(name, overflow="fold") for name in ("found", "expected")))
    for row in rows:
        drawn.add_row(row.check, Text(row.verdict, COLOURS[row.verdict]), row.found, row.expected)
    return drawn


def records(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return the rows for programs."""
    return [{"check": row.check, "verdict": row.verdict, "found": row.found, "expected": row.expected} for row in rows]


def refuse_failures(rows: Sequence[Row]) -> None:
    """Raise all failures as one error.

    Raises:
        Unreachable: All failed checks may pass later.
        InputError: A failed check will fail again.
    """
    errors = [row.error for row in rows if row.error]
    if errors:
        kind = Unreachable if all(isinstance(error, Unreachable) for error in errors) else InputError
        raise kind("; ".join(map(str, errors)))


def _is_here(source: GitDataset, dataset: Path) -> bool:
    expected = {LABELLED: source.labelled_data_sha256, TEST: source.test_prompt_sha256}
    return all(
        (dataset / name).exists() and digest(dataset / name).sha256 == sha256 for name, sha256 in expected.items()
    )


def _check_seen_by_dvc(source: FolderDataset, dataset: Path) -> None:
    """DVC watches `data/sources`; an edit to a folder elsewhere would go unnoticed."""
    folder = from_project(source.path)
    if folder.resolve().is_relative_to(Path("data/sources").resolve()) or not _was_copied(source):
        return
    for name in (LABELLED, TEST):
        if (dataset / name).exists() and table_in_json(folder, name) != (dataset / name).read_bytes():
            raise InputError(
                f"{folder / name} is no longer what {dataset / name} was copied from, and DVC watches only "
                "data/sources; run `dvc repro -s -f dataset`, or keep the folder in data/sources"
            )


def _was_copied(source: FolderDataset, lock: Path = Path("dvc.lock")) -> bool:
    """Did the stage last run with `source`? If not, DVC runs it again."""
    if not lock.exists():
        return False
    stage = read_yaml(lock)["stages"].get("dataset", {})
    return bool(stage.get("params", {}).get("params.yaml", {}).get("dataset") == source.model_dump(mode="json"))


def _has_template(folder: Path) -> bool:
    from stance.preflight.footprint import TEMPLATE_FILE, TOKENIZER

    if (folder / TEMPLATE_FILE).is_file():
        return True
    try:
        return (folder / TOKENIZER).is_file() and bool(read_json(folder / TOKENIZER).get("chat_template"))
    except ValueError as error:
        raise InputError(f"{folder / TOKENIZER} is not JSON ({error}); choose another model") from None


def _difference(pin: Requirement) -> str | None:
    pinned = str(pin.specifier).removeprefix("==")
    try:
        installed = version(pin.name)
    except PackageNotFoundError:
        return f"{pin.name} missing, pinned {pinned}"
    return None if pin.specifier.contains(installed) else f"{pin.name} {installed}, pinned {pinned}"


def main() -> None:
    """Run the checks: `python -m stance preflight`, or with `--json`."""
    parser = ArgumentParser(description="Check parameters, data and machine before a run.")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    as_json = parser.parse_args().json
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # standard error holds failures and nothing else
    if as_json:
        logging.disable()  # and standard output holds the rows and nothing else
    if (added := complete(Path("params.yaml"))) and not as_json:
        print(f"params.yaml has {', '.join(added)} now, left out as before; DVC wants to find every block there")
    params = Params.load()
    if not as_json:
        print("Checking parameters, data and machine; on a slow machine this takes up to a minute", flush=True)
    rows = preflight(params, Path("data/dataset"), Path("data/base"))
    if as_json:
        print(json.dumps(records(rows), ensure_ascii=False, indent=1))
    else:
        Console(markup=False, emoji=False, highlight=False).print(table(rows))
    refuse_failures(rows)
