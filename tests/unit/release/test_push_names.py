"""Which run `python -m stance push --run` means."""

from pathlib import Path

import pytest

from stance.errors import InputError
from stance.release import push


@pytest.mark.parametrize("given", ["calm-finch", ".runs/calm-finch"])
def test_a_run_is_named_as_everywhere_or_by_its_folder(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The run is unfinished, and the message says which one was read."""
    (tmp_path / ".runs/calm-finch").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text(Path("params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["push", "--run", given, "--dry-run"])
    with pytest.raises(InputError, match=r"\.runs/calm-finch"):
        push.main()
