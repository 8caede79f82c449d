"""Fixtures that several test modules share."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from stance.runs.signature import KEY_VARIABLE, PUBLIC, PUBLIC_VARIABLE, make_key
from tests.builders import repository
from tests.doubles.endpoint import Double
from tests.doubles.endpoint import serving as serving_endpoint
from tests.doubles.hub import Hub, serving
from tests.doubles.made_up import traces

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.builders.aligned_project import Aligned
    from tests.builders.forked_stages import Stage
    from tests.builders.prefect_ui import Ui

# As in the stages: on a busy machine threads that spin take the time of those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# What a shell starts in the background ignores Ctrl+C, and so would everything that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


FIRST = (
    "services/test_end_to_end.py",
    "services/test_ui.py",
    "services/test_worker.py",
    "services/test_serve.py",
    "services/test_release_whole.py",
    "services/test_sweep.py",
    "services/test_push.py",
    "services/",
    "models/",
)
"""What starts first, the longest before the others: two processes then end at about the same time.

`test_release_whole.py` needs the aligned project, which `test_end_to_end.py` makes. So other files start between them.
"""
TOGETHER = {
    "tests/services/test_worker.py": "tests/services/test_ui.py",
    "tests/models/test_judge.py": "tests/services/test_git_dataset.py",
}
"""A file that goes to the process of another file, because both use the fixture `ui`, or both use `stage`."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give every file to one process, as `--dist loadfile` does, and the files of `TOGETHER` to the same one."""
    from xdist.scheduler import LoadFileScheduling

    class ByFixture(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return TOGETHER.get(path, path)

    return ByFixture(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; with `--dist loadfile` each file is one process's, with its module's fixtures."""
    places = {path: number for number, path in enumerate(FIRST)}

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((number for start, number in places.items() if path.startswith(start)), len(FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def no_token_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever the tests do with the made-up token, it stands in no file afterwards."""
    yield
    assert traces(tmp_path_factory.getbasetemp(), shared(tmp_path_factory), Path("test-output")) == []


def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of this run of the tests that its processes share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server for flows that run in processes of their own."""
    from tests.builders.prefect_server import prefect_server

    with prefect_server(tmp_path_factory.mktemp("prefect")) as address:
        yield address


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project, made once; a test that changes something works in a copy (`toy_project.copy` or `enter`)."""
    from tests.builders.toy_project import make

    return make(tmp_path_factory.mktemp("toy") / "project")


@pytest.fixture(scope="session")
def stage() -> Iterator["Stage"]:
    """Runs a command of `dvc.yaml` in a folder, without the import of torch and vLLM."""
    from tests.builders.forked_stages import forked_stages

    with forked_stages() as run:
        yield run


@pytest.fixture(scope="session")
def ui(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Ui"]:
    """`make ui` in the toy project."""
    from tests.builders.prefect_ui import Ui, working_in
    from tests.builders.toy_project import copy

    running = Ui(copy(toy, tmp_path_factory.mktemp("ui")))
    yield running
    running.stop()
    assert working_in(running.project) == []


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """The system's Chromium; a file of tests opens its pages in one process of it."""
    from tests.builders.pages import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def aligned(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> "Aligned":
    """This project, aligned at ratio 1 once for all tests, on a base that is trained for half as long."""
    from tests.builders.aligned_project import SMALL, Aligned

    return Aligned(shared(tmp_path_factory) / "aligned", lambda: str(request.getfixturevalue("prefect_api")), **SMALL)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model of random weights, loaded in milliseconds: Mistral, bf16, Breeze's template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, MistralConfig, PreTrainedTokenizerFast

    from stance.data.chat import BREEZE_TEMPLATE

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["回覆請少於20字", "真人化能否帶來新的觀眾？", "[INST] [/INST]"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = BREEZE_TEMPLATE
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny") / "model"
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def hub_server() -> Iterator[Hub]:
    """A Hub on the loopback address."""
    with serving() as double:
        yield double


@pytest.fixture
def hub(hub_server: Hub) -> Hub:
    """The Hub, emptied."""
    hub_server.clear()
    return hub_server


@pytest.fixture(scope="session")
def endpoint_server() -> Iterator[Double]:
    """An OpenAI-style endpoint on the loopback address."""
    with serving_endpoint() as double:
        yield double


@pytest.fixture
def double(endpoint_server: Double, monkeypatch: pytest.MonkeyPatch) -> Double:
    """The endpoint, as if nobody had asked it, and the clients' settings for it."""
    endpoint_server.clear()
    for name, value in endpoint_server.environment.items():
        monkeypatch.setenv(name, value)
    return endpoint_server


@pytest.fixture
def questions_folder(tmp_path: Path) -> Path:
    """A data set of ten questions and two test prompts, formatted as no program would."""
    labelled = [
        {"id": n, "prompt": f"真人版好看嗎（{n}）？", "support": f"好看{n}。", "oppose": f"難看{n}。"}
        for n in range(1, 11)
    ]
    prompts = [{"id": n, "prompt": f"動畫該改編嗎（{n}）？"} for n in (1, 2)]
    folder = tmp_path / "questions"
    folder.mkdir()
    for name, rows in (("labelled_data.json", labelled), ("test_prompt.json", prompts)):
        lines = ",\r\n".join(json.dumps(row, ensure_ascii=row["id"] == 2) for row in rows)
        (folder / name).write_bytes(f"[  {lines}\r\n\t]".encode())
    return folder


@pytest.fixture
def git() -> Callable[..., str]:
    """Run git in a folder as someone with a name, and return what it prints."""
    return repository.git


@pytest.fixture
def run_module(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run `python -m MODULE ARGUMENTS` as DVC does, in a folder that holds nothing but these parameters."""

    def run(module: str, values: Mapping[str, Any], *arguments: str) -> "subprocess.CompletedProcess[str]":
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(dict(values)), encoding="utf-8")
        command = [sys.executable, "-m", *module.split(), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture(scope="session", autouse=True)
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A key that signs the releases of the tests, so that none is made in this checkout."""
    path = tmp_path_factory.mktemp("signing") / "key.pem"
    make_key(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, str(path))
        patch.setenv(PUBLIC_VARIABLE, str(path.with_name(PUBLIC)))
        yield path
