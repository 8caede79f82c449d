"""A finished run is read once: its weights for every digest at a time, and again only where a file was touched."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import yaml

from stance.errors import InputError
from stance.machine import digests
from stance.machine.digests import Stat, copy, hand_over, handed_over, read_digest
from stance.machine.files import blob_id, md5_of_files, write_json
from stance.runs import dvc_record
from stance.runs.finished import MERGED, SMALL, FinishedRun
from tests.builders.finished_run import write_lock, write_run
from tests.builders.toy_project import dvc

SHARD = "data/merged/model-1-of-2.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def list_files(run: Path) -> None:
    """Let the run have the list of the files of its merged model."""
    write_json(run / "data/merge/files.json", md5_of_files(run / MERGED))
    write_lock(run)


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
    taken = FinishedRun.read(run)
    content = (run / SHARD).read_bytes()
    assert taken.digests[SHARD].md5 == hashlib.md5(content).hexdigest()
    assert taken.digests[SHARD].sha256 == hashlib.sha256(content).hexdigest()
    assert taken.digests[SHARD].blob_id == git(run, "hash-object", SHARD).strip() == blob_id(content)
    assert taken.digests[SHARD].stat.size == len(content)
    assert md5_of_files(run / MERGED) == {
        path.removeprefix(f"{MERGED}/"): digest.md5 for path, digest in taken.digests.items() if MERGED in path
    }


def test_each_file_is_read_once_and_untouched_files_never_again(run, readings):
    taken = FinishedRun.read(run)
    assert sorted(readings) == sorted(path.split("/")[-1] for path in taken.digests)
    assert SHARD in taken.digests
    readings.clear()
    again = FinishedRun.read(run, taken.digests)
    assert (readings, again.digests) == ([], taken.digests)
    assert taken.again().digests == taken.digests
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
    list_files(run)
    taken = FinishedRun.read(run)
    readings.clear()
    change(run / SHARD)
    assert not taken.digests[SHARD].fits(run / SHARD)
    assert readings == []
    assert not taken.digests[SHARD].still_holds(run / SHARD)
    assert readings == [Path(SHARD).name]
    readings.clear()
    with pytest.raises(InputError, match=f"^{SHARD} in .* differ from what dvc.lock records; run `make repro` there"):
        FinishedRun.read(run, taken.digests)
    assert readings == [Path(SHARD).name]


def test_a_file_that_was_only_touched_is_read_again_and_passes(run, readings):
    taken = FinishedRun.read(run)
    readings.clear()
    (run / SHARD).touch()
    assert taken.digests[SHARD].still_holds(run / SHARD)
    readings.clear()
    FinishedRun.read(run, taken.digests)
    assert readings == [Path(SHARD).name]


def test_files_that_came_or_went_are_named(run):
    list_files(run)
    taken = FinishedRun.read(run)
    (run / MERGED / "more.json").write_text("{}")
    (run / SHARD).unlink()
    with pytest.raises(InputError, match=f"^{SHARD}, {MERGED}/more.json in .* differ"):
        FinishedRun.read(run, taken.digests)


@pytest.mark.parametrize("content", ["{", "[]", '{"model.safetensors": 7}'])
def test_a_list_of_the_merged_files_in_another_format_is_one_sentence(run, content):
    (run / "data/merge/files.json").write_text(content)
    (run / SHARD).unlink()
    with pytest.raises(InputError, match=r"data/merge/files\.json is not in the format of this version"):
        FinishedRun.read(run).hashed().differing()


def test_an_edited_small_file_is_seen_in_the_bytes_that_are_published(run):
    (run / "data/evaluation/metrics.json").write_text("{}")
    with pytest.raises(InputError, match=r"^data/evaluation/metrics.json in .* differ"):
        FinishedRun.read(run)


def test_a_copy_is_a_file_of_its_own_that_nobody_may_write_to(run, readings):
    taken = FinishedRun.read(run)
    readings.clear()
    copy(run / SHARD, run / "release/shard", taken.digests[SHARD])
    assert readings == []
    assert (run / "release/shard").stat().st_mode & 0o777 == 0o444
    content = (run / "release/shard").read_bytes()
    edited(run / SHARD)
    assert (run / "release/shard").read_bytes() == content
    assert hashlib.sha256(content).hexdigest() == taken.digests[SHARD].sha256


def test_copying_does_not_hide_an_earlier_change(run):
    taken = FinishedRun.read(run)
    rewritten(run / SHARD)
    with pytest.raises(InputError, match=f"{SHARD} was changed since it was checked; release it again"):
        copy(run / SHARD, run / "release/shard", taken.digests[SHARD])


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
    taken = FinishedRun.read(run)
    path = tmp_path / "digests.json"
    hand_over(path, taken.digests)
    assert path.stat().st_mode & 0o777 == 0o600
    assert handed_over(path) == taken.digests
    hand_over(path, {})
    assert handed_over(path) == {}


def test_a_hand_over_that_somebody_else_can_have_written_is_not_believed(run, tmp_path):
    taken = FinishedRun.read(run)
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
    taken = FinishedRun.read(run)
    rewritten(run / SHARD)
    with pytest.raises(InputError, match=f"^{MERGED} in .* differ"):
        FinishedRun.read(run, taken.digests)
    forged = {path: digest.model_copy(update={"md5": "0" * 32}) for path, digest in taken.digests.items()}
    with pytest.raises(InputError, match=f"^data/adapter, .*{MERGED}, .* in .* differ"):
        FinishedRun.read(run, forged)


@pytest.mark.parametrize("path", SMALL, ids=str)
def test_a_run_that_lacks_a_file_is_told_to_finish(run, path):
    (run / path).unlink()
    with pytest.raises(InputError, match=f"{path} does not exist; expected a finished run: `make repro` first"):
        FinishedRun.read(run)


@pytest.mark.parametrize("name", ["adapter", "merged"])
def test_a_run_that_lacks_its_weights_is_told_to_finish(run, name):
    shutil.rmtree(run / "data" / name)
    with pytest.raises(InputError, match=f"{name} does not exist; expected a finished run: `make repro` first"):
        FinishedRun.read(run)
    (run / "data" / name).mkdir()
    with pytest.raises(InputError, match=f"{name} holds no files; expected a finished run"):
        FinishedRun.read(run)


@pytest.mark.parametrize("content", ["", "[]", "stages: [a]\n", "stages: {a: b}\n", "{", "outs: {}\n"])
def test_a_lock_that_dvc_did_not_write_is_refused(run, content):
    (run / "dvc.lock").write_text(content)
    with pytest.raises(InputError, match="dvc.lock is not a lock of DVC; expected a finished run"):
        FinishedRun.read(run)


def test_a_run_of_an_earlier_version_is_refused_for_its_gates_in_one_sentence(run):
    """Its gates have another format."""
    words = {"name": "parity", "passed": True, "found": "drift 0.002", "expected": "at most 0.05", "advice": "none"}
    write_json(run / "data/evaluation/gates.json", [words])
    write_lock(run, judge=False)
    with pytest.raises(InputError) as refused:
        FinishedRun.read(run)
    assert "\n" not in str(refused.value)
    assert "gates.json is not in the format of this version (0.figure: field required); an earlier version" in str(
        refused.value
    )
    assert "make it again with this one (`make repro`, or a new run), or release it from a checkout" in str(
        refused.value
    )


TRAIN = "tasks/train.py"


def add_training(run: Path) -> None:
    """Let the stage of the adapter depend on a parameter and a file of code."""
    (run / TRAIN).parent.mkdir()
    (run / TRAIN).write_text("epochs = 3\n")
    train = yaml.safe_load((run / "params.yaml").read_text())["train"]
    write_lock(run, deps={"adapter": [TRAIN]}, params={"adapter": {"train": train}})


def set_param(run: Path, old: str, new: str) -> None:
    text = (run / "params.yaml").read_text()
    assert old in text
    (run / "params.yaml").write_text(text.replace(old, new))


CHANGES = {
    "train": lambda run: set_param(run, "num_epoch: 3", "num_epoch: 4"),
    TRAIN: lambda run: (run / TRAIN).write_text("epochs = 4\n"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_parameter_or_code_that_was_changed_after_the_run_is_refused_by_name(run, name):
    add_training(run)
    FinishedRun.read(run)
    CHANGES[name](run)
    with pytest.raises(InputError, match=rf"^{name}\S* in .* changed since the model was made; put back"):
        FinishedRun.read(run)


def test_a_bound_that_was_lowered_after_the_run_is_refused_by_the_gate_that_it_changes(run):
    """Even where the lock was edited to agree."""
    set_param(run, "min_adherence: 0.8", "min_adherence: 0.1")
    with pytest.raises(InputError, match=r"gates.json is not what the measurements give \(adherence missing or not"):
        FinishedRun.read(run)


def lose_a_stage(run: Path) -> None:
    lock = yaml.safe_load((run / "dvc.lock").read_text())
    del lock["stages"]["merge_parity.json"]
    (run / "dvc.lock").write_text(yaml.safe_dump(lock))


def lose_a_stage_of_both(run: Path) -> None:
    lose_a_stage(run)
    pipeline = yaml.safe_load((run / "dvc.yaml").read_text())
    del pipeline["stages"]["merge_parity.json"]
    (run / "dvc.yaml").write_text(yaml.safe_dump(pipeline))


def run_another_command(run: Path) -> None:
    text = (run / "dvc.yaml").read_text()
    (run / "dvc.yaml").write_text(text.replace("make data/merged", "make data/merged faster"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lose_a_stage, r"dvc.lock is not the lock of all stages in dvc.yaml \(merge_parity.json missing"),
        (lose_a_stage_of_both, "data/merge/parity.json in .* are in no output that dvc.lock records"),
        (
            run_another_command,
            r"not the lock of all stages in dvc.yaml \(merged.cmd missing or not the same",
        ),
    ],
)
def test_a_lock_of_other_stages_than_the_pipeline_has_is_refused(run, fault, words):
    fault(run)
    with pytest.raises(InputError, match=words):
        FinishedRun.read(run)


def test_a_lock_that_was_edited_to_match_is_not_one_that_dvc_left(run):
    (run / "data/merge/notes").touch()
    shutil.rmtree(run / ".dvc")
    with pytest.raises(InputError, match=r"DVC has not made the entries of adapter, .* or make the stages again there"):
        FinishedRun.read(run)


def test_dvc_names_the_entries_of_its_run_cache_as_we_do(tmp_path):
    """And keeps none for a stage with an output that persists, or for what was edited by hand."""
    (tmp_path / "in.txt").write_text("in")
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    copies = {"cmd": "cp in.txt out.txt", "deps": ["in.txt"], "params": ["seed"], "outs": ["out.txt"]}
    persists = {"cmd": "cp in.txt more.txt", "deps": ["in.txt"], "outs": [{"more.txt": {"persist": True}}]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copies": copies, "persists": persists}}))
    dvc(tmp_path, "init", "--quiet", "--no-scm")
    dvc(tmp_path, "repro", "--quiet")
    stages = yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]
    assert dvc_record.unrecorded(tmp_path, stages, set()) == ["persists"]
    assert dvc_record.unrecorded(tmp_path, stages, {"persists"}) == []
    stages["copies"]["outs"][0]["md5"] = "0" * 32
    assert dvc_record.unrecorded(tmp_path, stages, {"persists"}) == ["copies"]


@pytest.mark.parametrize("name", ["gates.json", "metrics.json", "responses.json"])
def test_an_edited_file_of_the_evaluation_is_refused_even_where_the_lock_agrees(run, name):
    path = run / "data/evaluation" / name
    path.write_text("[]" if name == "gates.json" else path.read_text() + " ")
    with pytest.raises(InputError, match=f"data/evaluation/{name} in .* differ"):
        FinishedRun.read(run)


def test_gates_that_were_made_up_are_refused_by_what_the_figures_give(run):
    write_json(run / "data/evaluation/gates.json", [])
    write_lock(run, judge=False)
    with pytest.raises(InputError, match=r"not what the measurements give \(fingerprint, watchdog, .* missing or not"):
        FinishedRun.read(run)


def test_a_verdict_in_words_is_a_wrong_type_in_a_sentence(run):
    path = run / "data/evaluation/gates.json"
    path.write_text(path.read_text().replace('"passed": true', '"passed": "false"', 1))
    write_lock(run, judge=False)
    with pytest.raises(InputError, match=r"gates.json .*\(0.passed: input should be a valid boolean\)"):
        FinishedRun.read(run)


@pytest.mark.parametrize("output", ["data/answers/aligned.jsonl", "data/merge/fingerprint.json", "data/base/base.json"])
def test_every_output_is_compared_and_not_only_what_is_published(run, output):
    (run / output).parent.mkdir(exist_ok=True)
    (run / output).touch()
    write_lock(run)
    with (run / output).open("a") as file:
        file.write(" ")
    with pytest.raises(InputError, match=rf"{Path(output).parent}\S* in .* differ"):
        FinishedRun.read(run)


def link_outside(path: Path) -> None:
    outside = path.parents[2].with_name("outside.json")
    path.rename(outside)
    path.symlink_to(outside)


def link_to_a_folder(path: Path) -> None:
    (path.parent / "more").symlink_to(path.parents[3])


def make_a_pipe(path: Path) -> None:
    os.mkfifo(path.parent / "pipe")


def make_an_empty_folder(path: Path) -> None:
    (path.parent / "empty").mkdir()


def name_it_outside(path: Path) -> None:
    os.link(path, path.parents[2].with_name("outside.json"))


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (link_outside, "data/merged/config.json is a link"),
        (link_to_a_folder, "data/merged/more is a link"),
        (make_a_pipe, "data/merged/pipe is a named pipe"),
        (make_an_empty_folder, "data/merged/empty is an empty folder"),
        (name_it_outside, "data/merged/config.json has another name .a hard link., by which its content can change"),
    ],
)
def test_an_output_holds_plain_files_and_nothing_else(run, plant, words):
    plant(run / MERGED / "config.json")
    with pytest.raises(InputError, match=words):
        FinishedRun.read(run)


def test_a_file_that_dvc_linked_out_of_its_cache_and_a_folder_on_another_disk_are_allowed(run, tmp_path):
    path = run / MERGED / "config.json"
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    stored = run / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    stored.parent.mkdir(parents=True)
    os.link(path, stored)
    (run / "data/adapter").rename(tmp_path / "disk")
    (run / "data/adapter").symlink_to(tmp_path / "disk")
    FinishedRun.read(run)


@pytest.mark.parametrize("name", ["merged/notes.txt", "merged/eval_samples.json", "adapter/optimizer.safetensors"])
def test_a_file_that_no_model_needs_is_refused_even_where_the_lock_has_it(run, name):
    (run / "data" / name).write_text("[]")
    write_lock(run)
    with pytest.raises(InputError, match=f"^data/{name} in .* would be published, and no model needs such a file"):
        FinishedRun.read(run)
