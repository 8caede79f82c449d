"""Where the endpoint is, whose key it gets, and what becomes of its errors."""

import re
from pathlib import Path

import pytest

from stance.client.batchfile import read_requests
from stance.client.endpoint import (
    URL,
    Endpoint,
    explaining,
    find_endpoint,
    messages,
    model_names,
    printable,
    provenance,
    system_prompt,
)
from stance.errors import InputError, Unreachable
from tests.doubles.endpoint import KEY, Double, Fault


@pytest.fixture
def at(double: Double) -> Endpoint:
    return find_endpoint(double.environment)


def say(at: Endpoint, question: str, model: str = "aligned") -> str:
    with explaining(at, model), at.client(max_retries=0, timeout=0.4) as client:
        asked = client.chat.completions.create(model=model, messages=[{"role": "user", "content": question}])
        return str(asked.choices[0].message.content)


def test_without_settings_it_is_this_machine_with_the_key_of_make_serve(tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n", encoding="utf-8")
    found = find_endpoint({}, tmp_path / "key")
    assert (found.url, found.key) == (URL, KEY)
    assert find_endpoint({"OPENAI_API_KEY": "mine"}, tmp_path / "key").key == "mine"


def test_the_endpoint_that_is_up_is_asked_whatever_its_port(tmp_path):
    (tmp_path / "key").write_text(KEY, encoding="utf-8")
    (tmp_path / "state.json").write_text('{"address": "http://127.0.0.1:8100/v1"}')
    found = find_endpoint({}, tmp_path / "key")
    assert (found.url, found.key) == ("http://127.0.0.1:8100/v1", KEY)
    assert find_endpoint({"OPENAI_BASE_URL": URL}, tmp_path / "key").url == URL
    (tmp_path / "state.json").write_text("{")
    assert find_endpoint({}, tmp_path / "key").url == URL


def test_the_key_of_this_machine_is_sent_to_no_other(tmp_path):
    (tmp_path / "key").write_text(KEY, encoding="utf-8")
    for elsewhere in ("https://api.example.com/v1", "http://127.0.0.1.example.com/v1", "http://10.0.0.1/v1"):
        assert find_endpoint({"OPENAI_BASE_URL": elsewhere}, tmp_path / "key").key != KEY
    assert find_endpoint({"OPENAI_BASE_URL": "http://localhost:9/v1"}, tmp_path / "key").key == KEY


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host/v1", "http://", "file:///v1"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(InputError, match="expected an address like http"):
        find_endpoint({"OPENAI_BASE_URL": address})


def test_a_proxy_is_not_asked_for_an_endpoint_of_this_machine(at, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert say(at, "hello") == "aligned on hello"


def test_an_endpoint_that_is_down_is_started_with_make_serve():
    with pytest.raises(Unreachable, match=r"nothing answers at http://127\.0\.0\.1:9/v1; start it with `make serve`"):
        say(Endpoint("http://127.0.0.1:9/v1", "k", ""), "hello")


@pytest.mark.parametrize(
    ("key", "origin", "sentence"),
    [
        ("sk-wrong", "OPENAI_API_KEY", "does not accept the key in OPENAI_API_KEY; correct it, or unset it"),
        ("sk-wrong", ".serve/key", "does not accept the key in .serve/key; start the endpoint again"),
        ("none", "", "does not accept a request without a key; set OPENAI_API_KEY"),
    ],
)
def test_a_wrong_key_is_named_by_its_place_and_never_shown(double, key, origin, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        say(Endpoint(double.url, key, origin), "hello")
    assert "sk-wrong" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert "sk-wrong" not in repr(Endpoint(double.url, key, origin))


def test_a_server_that_repeats_the_key_does_not_make_it_public(double, at):
    double.faults["hello"] = [Fault("status", 400, message=f"bad request with {KEY}")]
    with pytest.raises(InputError, match=r"bad request with \(key\)"):
        say(at, "hello")


def test_an_unknown_model_is_refused_with_the_names_of_those_there_are(at):
    with pytest.raises(InputError, match="does not serve 'gpt-4o'; expected one of aligned, r-0f3a9c2b7d11"):
        say(at, "hello", "gpt-4o")


def test_a_question_that_is_too_long_is_to_be_shortened(at):
    with pytest.raises(InputError, match="too long for the model .*; shorten them"):
        say(at, "long" * 1000)


@pytest.mark.parametrize(
    ("fault", "kind", "sentence"),
    [
        (Fault("status", 429), Unreachable, "is busy or has a problem .status 429: planted.; ask again later"),
        (Fault("status", 503), Unreachable, "is busy or has a problem .status 503"),
        (Fault("status", 413), InputError, "too long"),
        (Fault("status", 422), InputError, "refuses the request .status 422: planted."),
        (Fault("nonsense"), InputError, "is not that of an OpenAI-style endpoint"),
        (Fault("cut"), Unreachable, "broke in the middle of an answer"),
        (Fault("slow", seconds=0.6), Unreachable, "took too long to answer"),
    ],
    ids=lambda given: f"{given.kind}-{given.status}" if isinstance(given, Fault) else "",
)
def test_what_goes_wrong_is_one_sentence(double, at, fault, kind, sentence):
    double.faults["hello"] = [fault]
    with pytest.raises(kind, match=sentence) as caught:
        say(at, "hello")
    assert "\n" not in str(caught.value)


def test_the_models_and_the_release_are_told(at):
    assert model_names(at) == ["aligned", "r-0f3a9c2b7d11"]
    assert provenance(at) == {"release": "r-0f3a9c2b7d11"}


def test_an_endpoint_without_provenance_says_nothing_and_is_used(double, at):
    double.told = None
    assert provenance(at) == {}


def test_the_system_prompt_is_that_of_the_run_that_answers_and_otherwise_that_of_the_project():
    assert system_prompt({"params": {"model": {"system_prompt": "Be brief."}}}) == "Be brief."
    assert system_prompt({}) == "Reply in fewer than 20 words."
    assert system_prompt({"params": None}) == "Reply in fewer than 20 words."


def test_a_question_is_text_and_not_empty():
    assert messages("Be brief.", "Why?")[0] == {"role": "system", "content": "Be brief."}
    assert messages(None, "Why?") == [{"role": "user", "content": "Why?"}]
    with pytest.raises(InputError, match="is empty"):
        messages(None, " \n")
    with pytest.raises(InputError, match="not UTF-8"):
        messages(None, "why\udcff")


def test_an_answer_cannot_steer_the_terminal():
    assert printable("a\x1b[2J\x9b2Jb\r\x07\n\tc真") == "a[2J2Jb\n\tc真"


def test_the_examples_of_the_manual_run(double, tmp_path, monkeypatch, capsys):
    manual = Path("docs/serving.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", manual, flags=re.DOTALL)
    [rows] = re.findall(r'```\n(\{"custom_id".*?)```', manual, flags=re.DOTALL)
    (tmp_path / ".serve").mkdir()
    (tmp_path / ".serve/key").write_text(KEY, encoding="utf-8")
    (tmp_path / "prompts.jsonl").write_text(rows, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace(URL, double.url), "docs/serving.md", "exec"), {})
    assert capsys.readouterr().out == "\n".join(2 * ["aligned on Is live action worth watching?"])
    assert [request.custom_id for request in read_requests(tmp_path / "prompts.jsonl")] == ["a", "7"]


def test_the_file_with_the_key_may_not_be_a_folder(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read"):
        find_endpoint({}, tmp_path)
