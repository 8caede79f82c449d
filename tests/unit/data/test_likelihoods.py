"""The records of log-probabilities: what the stages write is read, and anything else is one sentence."""

import json

import pytest

from stance.data.likelihoods import read_likeliest, read_logps
from stance.errors import InputError

LOGPS = {"1": {"support": [-0.5, -1], "oppose": [-2.25]}, "2": {"support": [-1.5]}}
LIKELIEST = {"7": [{"12": -0.25, "3": -4.5}]}


@pytest.mark.parametrize(("read", "record"), [(read_logps, LOGPS), (read_likeliest, LIKELIEST)])
def test_a_record_is_read_as_it_was_written(read, record, tmp_path):
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert read(tmp_path / "record.json") == record


@pytest.mark.parametrize(
    ("read", "content", "expected"),
    [
        (read_logps, None, r"record\.json does not exist; expected a finished run"),
        (read_logps, b"", r"is not in the format of this version \(the file: invalid json"),
        (read_logps, b"[]", r"the file: input should be an object"),
        (read_logps, b"\xff{", r"is not in the format of this version"),
        (read_logps, b'{"1": {"neutral": ["?"]}}', r"\(1\.neutral\.0: input should be a valid number"),
        (read_logps, b'{"1": {"for": [-1]}}', r"1\.for.*: input should be 'support'"),
        (read_likeliest, b'{"7": {"12": -1}}', r"\(7: input should be a valid (list|array)"),
        (read_likeliest, b'{"7": [{"12": null}]}', r"run `dvc repro` again in the run's folder"),
    ],
)
def test_anything_else_is_one_sentence_that_names_the_file_and_the_key(read, content, expected, tmp_path):
    if content is not None:
        (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(InputError, match=expected):
        read(tmp_path / "record.json")
