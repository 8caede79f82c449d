"""A finished run is read once: its weights for every digest at a time, and again only where a file was touched."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import yaml

from stance.errors import InputError
from stance.machine import digests
from stance.machine.digests import Stat, hand_over, handed_over, link, read_digest
from stance.machine.files import blob_id, md5_of_files, write_json
from stance.runs.finished import MERGED, SMALL, FinishedRun
from tests.builders.finished_run import write_lock, write_run

SHARD = "data/merged/model-1-of-2.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read for their digests."""
    names: list[str] = []

    def counted(path: Path) -> digests.Digest:
        names.append(path.name)
        return read_digest(path)

    monkeypatch.setattr(digests, "read_digest", counted)
    return names


def test_one_reading_gives_the_hashes_of_dvc_of_git_lfs_and_of_git(run, git):
    taken = FinishedRun.read(run).hashed()
    content = (run / SHARD).read_bytes()
    assert taken.digests[SHARD].md5 == hashlib.md5(content).hexdigest()
    assert taken.digests[SHARD].sha256 == hashlib.sha256(content).hexdigest()
    assert taken.digests[SHARD].blob_id == git(run, "hash-object", SHARD).strip() == blob_id(content)
    assert taken.digests[SHARD].stat.size == len(content)
    assert md5_of_files(run / MERGED) == {
        path.removeprefix(f"{MERGED}/"): digest.md5 for path, digest in taken.digests.items() if MERGED in path
    }
    assert taken.differing() == []
    taken.require_as_recorded()


def test_each_file_is_read_once_and_untouched_files_never_again(run, readings):
    taken = FinishedRun.read(run).hashed()
    assert sorted(readings) == sorted(path.split("/")[-1] for path in taken.digests)
    readings.clear()
    again = FinishedRun.read(run).hashed(earlier=taken.digests)
    assert (readings, again.digests) == ([], taken.digests)
    assert taken.hashed().digests == taken.digests
    assert taken.digests[SHARD].still_holds(run / SHARD)
    assert readings == []


def rewritten(path: Path) -> None:
    """Other bytes, as many, at the same times as far as a user can set them."""
    times = path.stat()
    path.write_bytes(bytes(len(path.read_bytes())))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def exchanged(path: Path) -> None:
    """Another file of the same size and times in its place."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    rewritten(other)
    other.rename(path)


def edited(path: Path) -> None:
    path.write_bytes(bytes(len(path.read_bytes())))


@pytest.mark.parametrize("change", [rewritten, exchanged, edited])
def test_a_changed_file_is_seen_without_a_reading_then_read_and_refused_by_name(run, readings, change):
    write_json(run / "data/merge/files.json", md5_of_files(run / MERGED))
    taken = FinishedRun.read(run).hashed()
    readings.clear()
    change(run / SHARD)
    assert not taken.digests[SHARD].fits(run / SHARD)
    assert readings == []
    assert not taken.digests[SHARD].still_holds(run / SHARD)
    assert readings == [Path(SHARD).name]
    readings.clear()
    again = FinishedRun.read(run).hashed(earlier=taken.digests)
    assert readings == [Path(SHARD).name]
    assert again.differing() == [SHARD]
    with pytest.raises(InputError, match=f"{SHARD} in .* differ from what dvc.lock records; run `make repro` there"):
        again.require_as_recorded()


def test_a_file_that_was_only_touched_is_read_again_and_passes(run, readings):
    taken = FinishedRun.read(run).hashed()
    readings.clear()
    (run / SHARD).touch()
    assert taken.digests[SHARD].still_holds(run / SHARD)
    readings.clear()
    assert FinishedRun.read(run).hashed(earlier=taken.digests).differing() == []
    assert readings == [Path(SHARD).name]


def test_files_that_came_or_went_are_named(run):
    write_json(run / "data/merge/files.json", md5_of_files(run / MERGED))
    taken = FinishedRun.read(run).hashed()
    (run / MERGED / "more.json").write_text("{}")
    (run / SHARD).unlink()
    again = FinishedRun.read(run).hashed(earlier=taken.digests)
    assert again.differing() == [SHARD, f"{MERGED}/more.json"]


@pytest.mark.parametrize("content", ["{", "[]", '{"model.safetensors": 7}'])
def test_a_list_of_the_merged_files_in_another_format_is_one_sentence(run, content):
    (run / "data/merge/files.json").write_text(content)
    (run / SHARD).unlink()
    with pytest.raises(InputError, match=r"data/merge/files\.json is not in the format of this version"):
        FinishedRun.read(run).hashed().differing()


def test_an_edited_small_file_is_seen_in_the_bytes_that_are_published(run):
    (run / "data/evaluation/metrics.json").write_text("{}")
    assert FinishedRun.read(run).hashed().differing() == ["data/evaluation/metrics.json"]


def test_linking_a_file_leaves_its_digest_valid(run, readings):
    taken = FinishedRun.read(run).hashed()
    readings.clear()
    digest = link(run / SHARD, run / "release/shard", taken.digests[SHARD])
    assert (run / "release/shard").stat().st_ino == (run / SHARD).stat().st_ino
    assert digest.fits(run / SHARD)
    assert not taken.digests[SHARD].fits(run / SHARD)
    assert digest.md5 == taken.digests[SHARD].md5
    assert readings == []


def test_linking_does_not_hide_an_earlier_change(run):
    taken = FinishedRun.read(run).hashed()
    rewritten(run / SHARD)
    assert not link(run / SHARD, run / "release/shard", taken.digests[SHARD]).fits(run / SHARD)


def test_a_file_that_changes_while_it_is_read_is_refused(run, monkeypatch):
    changes = iter(range(100))
    settled = digests.settled

    def writes_meanwhile(file: int) -> Stat:
        before = settled(file)
        with (run / SHARD).open("ab") as shard:
            shard.write(bytes([next(changes)]))
        return before

    monkeypatch.setattr(digests, "settled", writes_meanwhile)
    with pytest.raises(InputError, match="changed 3 times while it was read; end whatever writes it"):
        read_digest(run / SHARD)
    assert next(changes) == 3


def test_digests_are_handed_over_in_a_file_for_this_user_alone(run, tmp_path):
    taken = FinishedRun.read(run).hashed()
    path = tmp_path / "digests.json"
    hand_over(path, taken.digests)
    assert path.stat().st_mode & 0o777 == 0o600
    assert handed_over(path) == taken.digests
    hand_over(path, {})
    assert handed_over(path) == {}


def test_a_hand_over_that_somebody_else_can_have_written_is_not_believed(run, tmp_path):
    taken = FinishedRun.read(run).hashed()
    path, linked = tmp_path / "digests.json", tmp_path / "link.json"
    hand_over(path, taken.digests)
    linked.symlink_to(path)
    assert handed_over(linked) == {}
    path.chmod(0o620)
    assert handed_over(path) == {}
    path.chmod(0o600)
    path.write_text("{")
    assert handed_over(path) == {}
    assert handed_over(tmp_path / "none.json") == {}
    assert handed_over(None) == {}


def test_a_stale_hand_over_spares_no_reading_and_a_forged_hash_passes_no_lock(run, readings):
    taken = FinishedRun.read(run).hashed()
    rewritten(run / SHARD)
    assert FinishedRun.read(run).hashed(earlier=taken.digests).differing() == [MERGED]
    forged = {path: digest.model_copy(update={"md5": "0" * 32}) for path, digest in taken.digests.items()}
    assert FinishedRun.read(run).hashed(earlier=forged).differing() == ["data/adapter", MERGED]


@pytest.mark.parametrize("path", SMALL, ids=str)
def test_a_run_that_lacks_a_file_is_told_to_finish(run, path):
    (run / path).unlink()
    with pytest.raises(InputError, match=f"{path} does not exist; expected a finished run: `make repro` first"):
        FinishedRun.read(run)


@pytest.mark.parametrize("name", ["adapter", "merged"])
def test_a_run_that_lacks_its_weights_is_told_to_finish(run, name):
    shutil.rmtree(run / "data" / name)
    with pytest.raises(InputError, match=f"{name} does not exist; expected a finished run: `make repro` first"):
        FinishedRun.read(run).hashed()
    (run / "data" / name).mkdir()
    with pytest.raises(InputError, match=f"{name} holds no files; expected a finished run"):
        FinishedRun.read(run).hashed()


@pytest.mark.parametrize("content", ["", "[]", "stages: [a]\n", "stages: {a: b}\n", "{", "outs: {}\n"])
def test_a_lock_that_dvc_did_not_write_is_refused(run, content):
    (run / "dvc.lock").write_text(content)
    with pytest.raises(InputError, match="dvc.lock is not a lock of DVC; expected a finished run"):
        FinishedRun.read(run)


def test_a_run_of_an_earlier_version_keeps_its_lock_and_is_refused_for_its_gates_in_one_sentence(run):
    """Its stages ran other commands and other code, which counts for nothing; its gates have another format."""
    lock = yaml.safe_load((run / "dvc.lock").read_text())
    lock["stages"]["merged"]["cmd"] = "python -m tasks.merge data/base data/merged"
    (run / "dvc.lock").write_text(yaml.safe_dump(lock))
    FinishedRun.read(run).hashed().require_as_recorded()
    words = {"name": "parity", "passed": True, "found": "drift 0.002", "expected": "at most 0.05", "advice": "none"}
    write_json(run / "data/evaluation/gates.json", [words])
    write_lock(run)
    with pytest.raises(InputError) as refused:
        FinishedRun.read(run)
    assert "\n" not in str(refused.value)
    assert "gates.json is not in the format of this version (0.figure: field required); an earlier version" in str(
        refused.value
    )
    assert "make it again with this one (`make repro`, or a new run), or release it from a checkout" in str(
        refused.value
    )
