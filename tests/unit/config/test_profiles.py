"""`make profile`: what it writes, and what it will not overwrite."""

import shutil
from pathlib import Path

import pytest
import yaml

from stance.config.params import Params
from stance.config.profiles import PROFILES, compose, main, profile
from stance.errors import InputError

PARAMS = Path("params.yaml")


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch, git) -> Path:
    """A repository with our profiles and the miniature's parameters, committed; the tests stand in it."""
    root: Path = tmp_path / "checkout"
    shutil.copytree(PROFILES, root / PROFILES)
    shutil.copyfile(PROFILES / "miniature.yaml", root / PARAMS)
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "all")
    monkeypatch.chdir(root)
    return root


def test_a_switch_copies_the_profile_with_its_comments(capsys):
    profile("breeze-7b", [], PARAMS)
    assert PARAMS.read_bytes() == (PROFILES / "breeze-7b.yaml").read_bytes()
    assert PARAMS.read_text(encoding="utf-8").startswith("# The course job")
    assert capsys.readouterr().out == "params.yaml is now profile breeze-7b\n"


def test_a_profile_can_be_switched_again_and_again():
    for name in ("breeze-7b", "qwen-0.5b", "miniature", "miniature"):
        profile(name, [], PARAMS)
        assert yaml.safe_load(PARAMS.read_text(encoding="utf-8")) == compose(name)


def test_the_file_is_written_where_there_is_none():
    PARAMS.unlink()
    profile("miniature", [], PARAMS)
    assert Params.load(PARAMS).seed == 42


def test_assignments_replace_values():
    profile("miniature", ["pairs.support_ratio=0.25", "train.loss_type=[hinge]", "train.loss_weights=[1]"], PARAMS)
    params = Params.load(PARAMS)
    assert str(params.pairs.support_ratio) == "0.25"
    assert (params.train.loss_type, params.train.loss_weights) == (("hinge",), (1.0,))
    assert "回覆請少於20字" in PARAMS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("pairs.support_ratio", "'pairs.support_ratio' is not KEY=VALUE; write for example pairs.support_ratio=0.5"),
        ("pairs.suport_ratio=0.5", "pairs.suport_ratio: there is no such parameter"),
        ("pairs.support_ratio=2", "pairs.support_ratio: .*less than or equal to 1"),
        ("pears.data_size=3", "override pears.data_size: there is no such block"),
        ("train.loss_type=[hinge", r"'train.loss_type=\[hinge' is not KEY=VALUE"),
    ],
)
def test_a_wrong_assignment_is_refused_and_nothing_written(assignment, problem):
    before = PARAMS.read_bytes()
    with pytest.raises(InputError, match=problem):
        profile("breeze-7b", [assignment], PARAMS)
    assert PARAMS.read_bytes() == before


def test_uncommitted_edits_are_not_overwritten():
    edited = PARAMS.read_text(encoding="utf-8").replace("seed: 42", "seed: 7")
    PARAMS.write_text(edited, encoding="utf-8")
    with pytest.raises(InputError, match="uncommitted edits.*; commit them, or drop them with `git checkout params"):
        profile("breeze-7b", [], PARAMS)
    assert PARAMS.read_text(encoding="utf-8") == edited


def test_committed_edits_may_be_overwritten(checkout, git):
    PARAMS.write_text(PARAMS.read_text(encoding="utf-8").replace("seed: 42", "seed: 7"), encoding="utf-8")
    git(checkout, "commit", "--quiet", "--all", "-m", "my seed")
    profile("breeze-7b", [], PARAMS)
    assert Params.load(PARAMS).seed == 42


def test_edits_that_git_does_not_have_are_kept_outside_git_too(checkout):
    shutil.rmtree(checkout / ".git")
    PARAMS.write_text("seed: 7\n")
    with pytest.raises(InputError, match="uncommitted edits"):
        profile("breeze-7b", [], PARAMS)


def test_an_unknown_profile_leaves_the_file_alone():
    with pytest.raises(InputError, match="no profile 'nonesuch'; expected one of .*miniature"):
        profile("nonesuch", [], PARAMS)
    assert PARAMS.read_bytes() == (PROFILES / "miniature.yaml").read_bytes()


def test_a_missing_name_is_asked_for(monkeypatch):
    monkeypatch.setattr("sys.argv", ["profile"])
    with pytest.raises(InputError, match="name a profile, for example"):
        main()
