"""Every command answers odd arguments with one sentence and an exit code, whatever they are; nothing is started."""

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from stance.__main__ import COMMANDS
from stance.errors import run

BYTES = bytes(range(256)) * 4
ENDINGS = ("", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".pem", ".yaml")
FILES = {
    "missing": ["missing.jsonl"],
    "a folder": ["folder", "folder.json"],
    "below a file": ["list.json/rows.json"],
    "empty": [f"empty{ending}" for ending in ENDINGS],
    "binary": [f"binary{ending}" for ending in ENDINGS],
    "other JSON": ["list.json", "number.json", "nested.json", "half.jsonl"],
    "too long a name": ["x" * 300],
}
"""The names of files that no command can use, by what they are."""
WITH_A_FILE = {
    "label": ["label", "{}"],
    "label --leave-one-out": ["label", "--leave-one-out", "{}"],
    "import": ["import", "{}", "mine"],
    "import --test": ["import", "rows.csv", "mine", "--test", "{}"],
    "grade": ["grade", "{}"],
    "batch": ["batch", "{}", "out.jsonl"],
    "push": ["push", "--dry-run", "--run", "{}"],
    "recompute": ["recompute", "{}"],
    "recompute --digests": ["recompute", ".", "--digests", "{}"],
    "verify": ["verify", "{}"],
    "verify --key": ["verify", "folder", "--key", "{}"],
    "pdf": ["pdf", "b09901000", "{}"],
    "serve --certificate": ["serve", "--certificate", "{}"],
    "candidate": ["candidate", "--run", "{}", "out"],
    "profile": ["profile", "{}"],
    "runs": ["runs", "show", "{}"],
    "votes": ["votes", "import", "{}"],
}
"""How each command takes a file, a folder or a name."""
WRONG = [
    "new n --language xx", "new ../x", "new n --profile nope", "new", "new n --refit", "new n n", "new n --profile",
    "import", "import rows.csv", "import rows.csv ../x", "import rows.csv n --test-size x",
    "import rows.csv n --test-size 99", "import rows.csv n --columns x", "import rows.csv n --columns x=y",
    "import rows.csv n --chosen both", "import rows.csv n --profile nope",
    "chat x", "chat 0", "chat 99999999", "chat 8501 8502", "rank x", "rank 0", "rank 8501 8502",
    "votes", "votes nope", "votes show", "votes export x", "votes import rows.csv", "votes ask", "votes ask --judge",
    "serve --port 0", "serve --port x", "serve nope", "serve --run nope", "serve --run nope --run nope",
    "serve swap --run nope", "serve rollback", "serve --hub x", "serve --hub a/b/c", "serve --hub a/b --with-base",
    "keys add", "keys revoke nope", "keys add x --at-once -1", "keys add x --at-once y", "keys nope",
    "runs nope", "runs show", "runs show nope", "runs show ..", "runs remove ..", "runs remove nope", "runs apply nope",
    "runs compare a b", "runs apply",
    "profile nope", "profile miniature x", "profile miniature a=b", "profile miniature train.beta=x",
    "profile miniature train.beta={", "profile miniature =1", "profile miniature train=1",
    "profile miniature train.beta=-1", "profile miniature train.beta=.nan", "profile miniature pairs.support_ratio=2",
    "ask", "ask x y", "ask x --max-tokens y", "ask x --temperature y", "ask x --system a --no-system", "ask x",
    "batch", "batch rows.csv", "batch rows.csv out --concurrency x", "batch rows.csv rows.csv",
    "label", "label --validate xx", "label rows.csv --device tpu", "label half.jsonl --dataset nope",
    "preflight", "preflight x", "footprint", "footprint x", "summary", "summary x",
    "pdf", "pdf ../x", "grade", "candidate", "candidate --run nope --hub a/b out", "candidate --hub /// out",
    "push", "push x", "push --run nope", "verify", "verify nope --key", "recompute a b",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is no project, with files that no command can use, and one table."""
    folder = tmp_path_factory.mktemp("odd")
    for ending in ENDINGS:
        (folder / f"empty{ending}").touch()
        (folder / f"binary{ending}").write_bytes(BYTES)
    for name in ("folder", "folder.json"):
        (folder / name).mkdir()
    (folder / "list.json").write_text("[1, 2]")
    (folder / "number.json").write_text("7")
    (folder / "nested.json").write_text("[" * 100_000)
    (folder / "half.jsonl").write_text('{"prompt": "a", "resp')
    (folder / "rows.csv").write_text("prompt,support,oppose\nGood?,Good.,Bad.\nRight?,Right.,Wrong.\n")
    return folder


@pytest.fixture
def typed(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command in the process of the test, and return what it prints to standard error."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setattr(subprocess, "Popen", started)

    def command(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"python -m stance {name}", *arguments])
        with pytest.raises(SystemExit) as ended:
            run(import_module(COMMANDS[name][0]).main)
        assert isinstance(ended.value.code, int)
        assert ended.value.code != 0
        return capsys.readouterr().err

    return command


def started(program: object, *_: object, **__: object) -> None:
    """Fail: a program was started. Python's own `uname`, by which OpenAI's client names the machine, is none."""
    if "uname" in str(program):
        raise OSError
    pytest.fail(f"started {program}")


def files(folder: Path) -> set[str]:
    """Return the names in a folder, except the endpoint's own folder."""
    return {path.name for path in folder.iterdir()} - {".serve"}


def is_one_sentence(text: str) -> bool:
    """Is a text one sentence about an error, behind the usage if the command line could not be parsed?"""
    *usage, last = text.splitlines()
    return "error: " in last and last.index("error: ") < 40 and (not usage or usage[0].startswith("usage: "))


@pytest.mark.parametrize("name", [name for names in FILES.values() for name in names])
@pytest.mark.parametrize("command", WITH_A_FILE)
def test_a_file_that_a_command_cannot_use_is_one_sentence(command, name, typed, folder):
    before = files(folder)
    assert is_one_sentence(typed(*(part.format(name) for part in WITH_A_FILE[command])))
    assert files(folder) == before


@pytest.mark.parametrize("name", [name for names in FILES.values() for name in names if not name.startswith("folder")])
def test_what_is_no_folder_is_not_served(name, typed):
    assert is_one_sentence(typed("serve", "--folder", name))


@pytest.mark.parametrize("line", WRONG)
def test_wrong_arguments_are_one_sentence(line, typed, folder):
    before = files(folder)
    assert is_one_sentence(typed(*line.split()))
    assert files(folder) == before


def test_every_command_is_tried():
    assert {line.split()[0] for line in [*WITH_A_FILE, *WRONG]} == COMMANDS.keys()
