"""The second judge: what it is asked, what is made of its replies, and what becomes of one that cannot be had."""

import json
import shutil
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from stance.config.params import Params
from stance.data.answers import Answer
from stance.data.questions import Question
from stance.evaluation.llm_judge import inquiry_for, request
from stance.language.en_judge import ENGLISH
from stance.language.zh_hant_judge import CHINESE
from tasks.judge import judge
from tests.builders.forked_stages import Stage
from tests.builders.small_run import params, prepare, write_dataset

ANSWERS = {"base": ["很難說。", "要看情況。"], "aligned": ["更上一層樓。", "大不如前。"]}
Replies = Callable[[str], str]


class Endpoint(BaseHTTPRequestHandler):
    """Chat completions as an OpenAI client expects them; `reply` answers the last message."""

    reply: Replies
    asked: list[dict[str, Any]]
    instead: str | None
    status: int

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body | {"path": self.path})
        said = type(self).reply(body["messages"][-1]["content"])
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        data = (self.instead or json.dumps(answer)).encode()
        self.send_response(self.status)
        self.send_header("content-type", "text/html" if data.startswith(b"<") else "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[str, list[dict[str, Any]]]]]:
    """Start an endpoint, perhaps one that sends something else; returns its address and what it is asked."""
    servers: list[ThreadingHTTPServer] = []

    def start(reply: Replies, instead: str | None = None, status: int = 200) -> tuple[str, list[dict[str, Any]]]:
        asked: list[dict[str, Any]] = []
        given = {"reply": staticmethod(reply), "asked": asked, "instead": instead, "status": status}
        handler = type("Handler", (Endpoint,), given)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def written(root: Path) -> None:
    """Write a data set and answers."""
    write_dataset(root / "dataset")
    for name, texts in ANSWERS.items():
        rows = [
            {"id": n, "prompt": "音效會進步嗎？", "response": text, "tokens": 5, "finish_reason": "stop"}
            for n, text in enumerate(texts, start=1)
        ]
        path = root / f"answers/{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def opinion(root: Path, chosen: Params) -> dict[str, Any]:
    folders = (root / "base", root / "dataset", root / "answers", root / "judge/verdicts.json")
    judge(chosen.evaluate.judge, chosen.model, chosen.answers, *folders)
    found: dict[str, Any] = json.loads((root / "judge/verdicts.json").read_text(encoding="utf-8"))
    return found


def at(url: str, tiny_model: Path) -> Params:
    return params(tiny_model, evaluate__judge={"source": "endpoint", "url": url, "model": "gpt"})


def test_every_stance_of_the_data_set_is_shown_before_an_answer_is_asked_about():
    shown = [Question(id=1, prompt="好嗎？", support="好。", oppose="不好。", neutral="難說。")]
    row = Answer(id=1, prompt="棒嗎？", response="很棒。", tokens=3, finish_reason="stop")
    messages = request(inquiry_for(shown), shown, row)
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 3, "user"]
    assert [message["content"] for message in messages[2::2]] == ["支持", "中立", "反對"]
    assert messages[-1]["content"] == "問題：棒嗎？\n回答：很棒。"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("支持", "support"),
        (" 立場：反對。", "oppose"),
        ("支持或反對", None),
        ("yes", None),
        ("", None),
        ("反对", "oppose"),
        ("不支持", None),
    ],
)
def test_a_reply_counts_where_it_names_exactly_one_stance(text, found):
    assert CHINESE.stance(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Support", "support"),
        ("The answer opposes it.", "oppose"),
        ("support or oppose", None),
        ("yes", None),
        ("It does not support it.", None),
    ],
)
def test_a_reply_in_english_counts_where_it_names_exactly_one_stance(text, found):
    assert ENGLISH.stance(text) == found


def test_a_data_set_in_english_is_asked_about_in_english():
    shown = [Question(id=1, prompt="Is it good?", support="It is.", oppose="It is not.")]
    messages = request(
        inquiry_for(shown), shown, Answer(id=1, prompt="Is it nice?", response="Yes.", tokens=2, finish_reason="stop")
    )
    assert [message["content"] for message in messages[2::2]] == ["support", "oppose"]
    assert messages[-1]["content"] == "Question: Is it nice?\nAnswer: Yes."


def test_an_endpoint_is_asked_about_every_answer_and_its_opinion_is_kept_in_order(serve, tiny_model, tmp_path):
    written(tmp_path)
    replies = {"很難說。": "中立", "要看情況。": "我不知道", "更上一層樓。": "支持", "大不如前。": "反對"}
    url, asked = serve(lambda said: replies[said.rpartition("：")[2]])
    found = opinion(tmp_path, at(url, tiny_model))
    assert found["judge"] == f"gpt at {url}"
    assert (found["problem"], found["base"], found["aligned"]) == (None, ["neutral", None], ["support", "oppose"])
    assert {(body["path"], body["model"], body["temperature"]) for body in asked} == {
        ("/v1/chat/completions", "gpt", 0)
    }
    assert len(asked) == 4


def test_an_endpoint_that_is_down_costs_its_opinion_and_nothing_else(tiny_model, tmp_path):
    written(tmp_path)
    found = opinion(tmp_path, at("http://127.0.0.1:9/v1", tiny_model))
    down = "http://127.0.0.1:9/v1 gives no answer of an OpenAI-style endpoint (Connection error"
    assert found["problem"].startswith(down)
    assert found["base"] == [None, None]


def test_an_endpoint_that_answers_nonsense_is_named_with_what_it_says(serve, tiny_model, tmp_path):
    written(tmp_path)
    url, _ = serve(lambda said: "As a language model")
    found = opinion(tmp_path, at(url, tiny_model))
    assert found["problem"] == "its replies are like 'As a language model', which is none of 支持, 中立, 反對"


@pytest.mark.parametrize("body", ["<html>log in</html>", '{"error": "no"}', '{"choices": []}', "[1,"])
def test_a_reply_that_is_no_chat_completion_costs_the_opinion_and_nothing_else(serve, tiny_model, tmp_path, body):
    written(tmp_path)
    url, _ = serve(lambda said: "支持", body)
    found = opinion(tmp_path, at(url, tiny_model))
    assert found["problem"].startswith(f"{url} gives no answer of an OpenAI-style endpoint (")


def test_an_endpoint_that_refuses_the_key_is_said_to_refuse(serve, tiny_model, tmp_path):
    written(tmp_path)
    url, _ = serve(lambda said: "支持", '{"error": {"message": "wrong key"}}', 401)
    assert opinion(tmp_path, at(url, tiny_model))["problem"].startswith(f"{url} refuses (Error code: 401")


def test_without_a_second_judge_nothing_is_read(tiny_model, tmp_path):
    assert opinion(tmp_path, params(tiny_model)) == {"judge": None, "problem": None}


def opinion_of_base(stage: Stage, model: Path, root: Path) -> dict[str, Any]:
    """Let the base model judge, in a process of its own."""
    chosen = params(model, evaluate__judge={"source": "base_model"})
    prepare(root / "made", chosen)
    written(root)
    (root / "params.yaml").write_text(yaml.safe_dump(chosen.model_dump(mode="json"), allow_unicode=True))
    ended = stage("tasks/python -m tasks.judge made/base dataset answers judge/verdicts.json", root)
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads((root / "judge/verdicts.json").read_text(encoding="utf-8"))
    return found


def test_the_base_model_can_only_choose_one_of_the_words(stage, tiny_model: Path, tmp_path: Path):
    shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    found = opinion_of_base(stage, tmp_path / "model", tmp_path)
    assert (found["judge"], found["problem"]) == ("the base model", None)
    assert all(said in ("support", "neutral", "oppose") for said in found["base"] + found["aligned"])


def test_a_base_model_that_cannot_read_so_much_says_so_in_place_of_its_opinion(stage, tiny_model: Path, tmp_path: Path):
    found = opinion_of_base(stage, tiny_model, tmp_path)
    assert "tokens and the model reads 512" in found["problem"]
    assert found["aligned"] == [None, None]
