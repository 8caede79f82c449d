"""What stands behind the public port: swaps and the way back, through a real HAProxy, with engines that only echo."""

import json
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import openai
import pytest

from stance.client import local
from stance.client.local import state
from stance.errors import InputError
from stance.machine.memory import Room
from stance.machine.ports import HOST, free_port
from stance.machine.supervisor import guarded, release
from stance.runs import catalogue
from stance.runs.record import Run
from stance.serving import control, engine_memory, remains
from stance.serving import endpoint as endpoints
from stance.serving import engine as engines
from stance.serving.candidate import ServableModel
from stance.serving.control import CONTROL
from stance.serving.endpoint import Endpoint
from stance.serving.engine import Engine, ServeRequest
from stance.serving.proxy import LOG, Proxy

ECHO = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(2 if self.path == "/v1/slow" else 0.1)
        self.answer()

    def answer(self):
        body = sys.argv[2].encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 128

Server(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"""


def candidate(name: str, **values: Any) -> ServableModel:
    """Return a model of which 10 MiB are weights, and a token takes 1 KiB of cache."""
    known = {
        "provenance": {"release": name, "released": False},
        "model": Path("data/merged"),
        "system_prompt": "?",
        "max_new_tokens": 8,
        "gpu": False,
        "weights": 10 * 2**20,
        "cache_per_token": 1024,
        "window": 1024,
        "overhead": 2**30,
    }
    return ServableModel(name=name, **known | values)


def start(request: ServeRequest, known: ServableModel, number: int, key: str, *, private_pages: bool = False) -> Engine:
    port = free_port()
    return Engine(number, request, known, port, guarded([sys.executable, "-c", ECHO, str(port), f'"{known.name}"']))


def check(engine: Engine, key: str) -> list[str]:
    if engine.candidate.name == "bad":
        raise InputError("bad is not served")
    return ["fine"]


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An endpoint that serves `one`."""
    shutil.copytree("deploy", tmp_path / "deploy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines, "prepare", lambda request, _: candidate(request.run))
    monkeypatch.setattr(engines, "start", start)
    monkeypatch.setattr(engines, "check", check)
    monkeypatch.setattr(engine_memory, "room", lambda candidate: Room(2**36, 2**36))
    running = Endpoint(HOST, free_port())
    try:
        running.open(ServeRequest(run="one"), print)
        yield running
    finally:
        running.close()


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for one engine."""
    monkeypatch.setattr(engine_memory, "shortage", lambda known, *_: f"{known.name} takes 2.0 GiB and 1.0 are free")


def ask(up: Endpoint, client: httpx.Client | None = None, path: str = "echo") -> str:
    post = client.post if client else httpx.post
    answer = post(f"{up.address}/{path}", content=b"?", timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json())


@contextmanager
def asking(up: Endpoint, clients: int = 8) -> Iterator[list[str]]:
    """Ask without a pause from several clients at once; yields the answers, and fails if one was none."""
    answers: list[str] = []
    problems: list[BaseException] = []
    over = threading.Event()

    def loop() -> None:
        try:
            with httpx.Client() as client:
                while not over.is_set():
                    answers.append(ask(up, client))
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=loop) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert problems == []


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def more(answers: list[str]) -> None:
    """Wait for two more answers to each of eight clients."""
    enough = len(answers) + 16
    wait_until(lambda: len(answers) > enough)


def test_a_swap_and_a_rollback_fail_no_request(up: Endpoint):
    with asking(up) as answers:
        more(answers)
        said = up.swap(ServeRequest(run="two"), print)
        swapped = len(answers)
        more(answers)
        up.rollback()
        more(answers)
    assert "release two (unreleased)" in said
    assert set(answers) == {"one", "two"}
    assert set(answers[swapped + 8 : swapped + 16]) == {"two"}
    assert ask(up) == "one"


def test_a_third_model_takes_the_place_of_the_one_that_stood_by(up: Endpoint):
    up.swap(ServeRequest(run="two"), print)
    first = up.running[0]
    up.swap(ServeRequest(run="three"), print)
    assert ask(up) == "three"
    assert not first.alive()
    assert [engine.candidate.name for engine in up.running] == ["two", "three"]
    up.rollback()
    assert ask(up) == "two"


def test_a_model_that_fails_its_checks_leaves_all_as_it_was(up: Endpoint):
    up.swap(ServeRequest(run="two"), print)
    with pytest.raises(InputError, match="bad is not served"):
        up.swap(ServeRequest(run="bad"), print)
    assert ask(up) == "two"
    assert len(up.running) == 2
    up.rollback()
    assert ask(up) == "one"


def test_without_a_model_before_there_is_no_way_back(up: Endpoint):
    with pytest.raises(InputError, match="there is no model before this one to go back to; choose one"):
        up.rollback()


def test_without_room_for_two_engines_requests_wait_and_none_fails(up: Endpoint, no_room: None):
    said: list[str] = []
    with asking(up) as answers:
        more(answers)
        up_now = up.swap(ServeRequest(run="two"), said.append)
        more(answers)
    assert said[0].startswith("two takes 2.0 GiB and 1.0 are free: no room for two engines")
    assert "requests waited for" in up_now
    assert (answers[0], answers[-1]) == ("one", "two")
    assert [engine.candidate.name for engine in up.running] == ["two"]


def test_without_room_a_model_that_fails_its_checks_brings_the_old_one_back(up: Endpoint, no_room: None):
    with asking(up) as answers:
        more(answers)
        with pytest.raises(InputError, match="bad is not served; one answers again after"):
            up.swap(ServeRequest(run="bad"), print)
        more(answers)
    assert set(answers) == {"one"}


def test_without_room_and_with_neither_model_to_be_had_the_endpoint_says_so_and_tries_once_more(
    up: Endpoint, no_room: None, monkeypatch
):
    def start_no_more(*_: Any, **__: Any) -> Engine:
        raise InputError("the GPU is gone")

    monkeypatch.setattr(engines, "start", start_no_more)
    with pytest.raises(InputError, match="the GPU is gone; and one does not start again: the GPU is gone"):
        up.swap(ServeRequest(run="two"), print)
    assert up.running == []
    assert up.live is not None
    up.live.log.write_text("")
    with pytest.raises(InputError, match="the GPU is gone"):
        up.watch()
    monkeypatch.setattr(engines, "start", start)
    up.watch()
    assert ask(up) == "one"


def test_the_same_release_again_leaves_the_way_back(up: Endpoint):
    up.swap(ServeRequest(run="two"), print)
    first = up.live
    assert first is not None
    up.swap(ServeRequest(run="two"), print)
    assert ask(up) == "two"
    assert not first.alive()
    assert [engine.candidate.name for engine in up.running] == ["one", "two"]
    up.rollback()
    assert ask(up) == "one"


def test_a_run_that_answers_or_stands_by_is_not_removed(up: Endpoint, monkeypatch):
    folders = [str(Path(".runs", name).resolve()) for name in ("two", "three")]
    for folder in folders:
        up.swap(ServeRequest(run=folder), print)
    assert local.served_folders() == folders[::-1]
    monkeypatch.setattr(
        catalogue, "find", lambda name: Run(name=name, commit="a", snapshot="a", created=datetime.now(UTC))
    )
    for name in ("two", "three"):
        with pytest.raises(InputError, match=f"the endpoint serves {name}, or stands ready to go back to it"):
            catalogue.remove([name])


def test_requests_that_run_end_before_the_endpoint_does(up: Endpoint):
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(ask(up, path="slow")))
    thread.start()
    assert up.proxy is not None
    while not up.proxy.running(up.slot):
        time.sleep(0.05)
    up.close()
    thread.join()
    assert answers == ["one"]
    assert all(not engine.alive() for engine in up.running)
    assert state() is None


def test_an_engine_that_ends_by_itself_too_often_is_named(up: Endpoint, monkeypatch, capsys):
    monkeypatch.setattr(endpoints, "RESTARTS", 1)
    up.watch()

    def end_engine() -> None:
        assert up.live is not None
        up.live.log.write_text("RuntimeError: out of luck\n")
        up.live.end()

    end_engine()
    up.watch()
    assert ask(up) == "one"
    printed = capsys.readouterr().out
    assert "the engine of one has ended by itself (it was ended by the signal SIGTERM; RuntimeError: out of" in printed
    end_engine()
    with pytest.raises(
        InputError, match=r"the engine of one has ended by itself \(.*RuntimeError: out of luck; "
    ) as told:
        up.watch()
    assert "it was started again 1 times within 10 minutes, and is not once more" in str(told.value)
    [kept] = re.findall(r"; (\S+) has the rest", printed)
    assert Path(kept).read_text() == "RuntimeError: out of luck\n"


def test_what_is_long_ago_does_not_count_against_a_revival(monkeypatch):
    budget = endpoints.Budget()
    for moment in range(0, 10_000, 301):  # two within ten minutes, forever
        monkeypatch.setattr(endpoints.time, "monotonic", lambda now=float(moment): now)
        budget.spend("it has ended")
    budget.spend("it has ended")
    with pytest.raises(InputError, match="it has ended; it was started again 3 times within 10 minutes"):
        budget.spend("it has ended")


def test_a_killed_proxy_is_started_again_and_the_engine_stays(up: Endpoint, monkeypatch):
    assert up.proxy is not None
    assert up.live is not None
    up.swap(ServeRequest(run="two"), print)
    engine = up.live
    os.kill(up.proxy.pid, signal.SIGKILL)
    up.proxy.process.wait(timeout=10)
    with pytest.raises(httpx.ConnectError):
        ask(up)
    up.watch()
    assert ask(up) == "two"
    assert up.live is engine
    up.rollback()
    assert ask(up) == "one"
    monkeypatch.setattr(endpoints, "RESTARTS", 1)
    os.kill(up.proxy.pid, signal.SIGKILL)
    up.proxy.process.wait(timeout=10)
    with pytest.raises(InputError, match=r"HAProxy has ended by itself; .serve/proxy.log may say why; it was started"):
        up.watch()


def test_a_killed_endpoint_leaves_nothing_after_the_next_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".serve").mkdir()
    shared, others = Path(f"/dev/shm/stance-test-{os.getpid()}"), Path(f"/dev/shm/stance-other-{os.getpid()}")
    code = (
        f"import mmap, time; file = open({str(shared)!r}, 'w+b'); file.truncate(4096)\n"
        "held = mmap.mmap(file.fileno(), 0); print('holds', flush=True); time.sleep(60)"
    )
    others.write_bytes(b"of another program")
    guard = guarded([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert guard.stdout is not None
        assert guard.stdout.readline() == "holds\n"
        scratch = TemporaryDirectory(prefix="stance-engine-")
        Path(scratch.name, "socket").touch()
        remains.write([Engine(1, ServeRequest(), candidate("one"), 1, guard, scratch)])
        assert guard.stdin is not None
        guard.stdin.close()  # as if the endpoint had been killed: the guard ends the engine
        assert remains.clean() == [Path(scratch.name), shared]
        assert others.exists()
        assert not Path(scratch.name).exists()
        assert remains.clean() == []
        scratch.cleanup()
    finally:
        release(guard)
        others.unlink()


def test_an_engine_that_ends_by_itself_is_started_again_and_requests_wait(up: Endpoint):
    assert up.live is not None
    up.live.log.write_text("")
    up.live.end()
    with asking(up) as answers:
        time.sleep(0.3)
        assert answers == []
        up.watch()
    assert set(answers) == {"one"}
    assert len(up.running) == 1


def test_one_that_stood_by_and_has_ended_is_no_way_back(up: Endpoint):
    up.swap(ServeRequest(run="two"), print)
    assert up.before is not None
    up.before.end()
    up.watch()
    with pytest.raises(InputError, match="there is no model before this one"):
        up.rollback()
    assert ask(up) == "two"


def test_orders_come_over_a_socket_of_the_user_alone(up: Endpoint, monkeypatch):
    monkeypatch.setattr(endpoints, "RESTARTS", 0)

    def stay() -> None:
        with pytest.raises(InputError, match="by itself"):
            control.stay(up)

    thread = threading.Thread(target=stay)
    thread.start()
    while not CONTROL.exists():
        time.sleep(0.05)
    assert stat.S_IMODE(CONTROL.stat().st_mode) == 0o600
    said: list[str] = []
    order = {"order": "swap", "request": {"run": "two"}}
    assert "release two" in control.give(order, said.append)
    assert said == ["starts an engine for two", "  fine"]
    assert "release one" in control.give({"order": "rollback"}, print)
    with pytest.raises(InputError, match="there is no order 'dance'; expected swap or rollback"):
        control.give({"order": "dance"}, print)
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(CONTROL))
        rude.sendall(b"no json\n")
    known = state()
    assert known is not None
    assert (known["live"]["name"], known["previous"]["name"]) == ("one", "two")
    assert up.live is not None
    up.live.log.write_text("")
    up.live.end()
    thread.join()


def test_who_leaves_before_the_switch_has_asked_for_nothing(up: Endpoint, monkeypatch):
    left = threading.Event()

    def check_later(engine: Engine, key: str) -> list[str]:
        assert left.wait(10)
        return ["fine"]

    monkeypatch.setattr(engines, "check", check_later)
    here, there = socket.socketpair()
    here.sendall(b'{"order": "swap", "request": {"run": "two"}}\n')
    thread = threading.Thread(target=control.serve_order, args=(up, there))
    thread.start()
    assert b"starts an engine for two" in here.recv(1000)
    here.close()
    left.set()
    thread.join()
    there.close()
    assert ask(up) == "one"
    assert [engine.candidate.name for engine in up.running] == ["one"]


def test_an_endpoint_that_is_ending_takes_no_orders(up: Endpoint):
    with pytest.raises(InputError, match="the endpoint of this folder is starting or ending"):
        control.give({"order": "rollback"}, print)  # nobody listens, and the state is there


def test_an_order_without_an_endpoint_says_how_to_start_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no endpoint is up in this folder; start one: make serve"):
        control.give({"order": "rollback"}, print)


def test_paths_bodies_and_clients_that_do_not_belong_are_turned_away(up: Endpoint):
    root = up.address.removesuffix("/v1")
    for path in ("/tokenize", "/", "/docs", "/v1", "//v1/echo", "/load_lora_adapter"):
        assert httpx.get(f"{root}{path}").status_code == 404
    assert httpx.post(f"{up.address}/echo", content=b"x" * 1_000_000).status_code == 200
    refused = httpx.post(f"{up.address}/echo", content=b"x" * 1_000_001)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, 413)
    assert httpx.post(f"{up.address}/echo", content=iter([b"x"])).status_code == 411
    assert ask(up) == "one"


def test_slow_and_half_open_clients_are_dropped_and_hold_nobody_up(up: Endpoint):
    def half(text: bytes) -> socket.socket:
        connection = socket.create_connection((HOST, up.port))
        connection.sendall(text)
        return connection

    silent = [half(b"") for _ in range(50)]
    heads = [half(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\n") for _ in range(50)]
    bodies = [half(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx") for _ in range(50)]
    began = time.monotonic()
    assert [ask(up) for _ in range(5)] == ["one"] * 5
    assert time.monotonic() - began < 3
    for connection in [*heads, *bodies]:
        connection.settimeout(15)
        assert b"408" in connection.recv(1000)
    for connection in [*silent, *heads, *bodies]:
        connection.close()


def test_the_log_has_ids_and_nothing_of_what_was_asked(up: Endpoint):
    answer = httpx.post(f"{up.address}/echo?key=secret-query", content=b"secret-body", headers={"x-request-id": "mine"})
    assert answer.status_code == 200
    time.sleep(0.2)
    log = LOG.read_text()
    assert "POST /v1/echo 200" in log
    assert "secret" not in log
    assert "mine" not in log


def test_no_engine_is_said_in_the_words_of_the_api(tmp_path, monkeypatch):
    shutil.copytree("deploy", tmp_path / "deploy")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".serve").mkdir()
    port = free_port()
    proxy = Proxy(HOST, port)
    try:
        answer = httpx.get(f"http://{HOST}:{port}/v1/models")
    finally:
        proxy.end()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["message"] == "no engine is up; ask again later"


@pytest.mark.parametrize(
    ("path", "body", "refused", "status", "kind", "message"),
    [
        (
            "/nowhere/",
            "?",
            openai.NotFoundError,
            404,
            "invalid_request_error",
            "there is no such path; expected one below",
        ),
        (
            "/v1/echo",
            "x" * 1_000_001,
            openai.APIStatusError,
            413,
            "invalid_request_error",
            "the body has more than 1 MB",
        ),
        ("/v1/echo", None, openai.APIStatusError, 411, "invalid_request_error", "expected a Content-Length"),
        ("/v1/slow", "?", openai.InternalServerError, 502, "server_error", "the engine ended while it answered"),
    ],
)
def test_the_errors_of_the_proxy_are_exceptions_of_the_official_client(
    up: Endpoint,
    path: str,
    body: str | None,
    refused: type[openai.APIStatusError],
    status: int,
    kind: str,
    message: str,
):
    root = up.address.removesuffix("/v1")
    if path == "/v1/slow":
        assert up.live is not None
        threading.Timer(0.5, up.live.end).start()
    content = iter([b"x"]) if body is None else body
    with (
        openai.OpenAI(base_url=root, api_key="mine", max_retries=0, timeout=30) as client,
        pytest.raises(refused, match=message) as raised,
    ):
        client.post(path, cast_to=object, content=content)
    assert (raised.value.status_code, raised.value.type, raised.value.code) == (status, kind, str(status))
    assert raised.value.body == {"message": raised.value.body["message"], "type": kind, "param": None, "code": status}


def test_what_is_no_http_is_refused_and_cut_off(up: Endpoint):
    """The parser of HAProxy answers with a page of its own, which no configuration changes."""
    long = b"GET /v1/" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n"
    for text in (b"nonsense\r\n\r\n", long, b"GET / HTTP/9\r\n\r\n"):
        with socket.create_connection((HOST, up.port), timeout=15) as connection:
            connection.sendall(text)
            answer = b"".join(iter(lambda at=connection: at.recv(65536), b""))
        assert b" 400 " in answer.splitlines()[0]
    assert ask(up) == "one"


def test_a_body_that_comes_too_slowly_gets_an_error_of_the_api(up: Endpoint):
    with socket.create_connection((HOST, up.port), timeout=15) as connection:
        connection.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "timeout_error"


def test_a_key_with_many_requests_does_not_hold_up_another(up: Endpoint):
    """The proxy lets one request through at a time here; a second key gets its turn before the rest of the first."""
    assert up.proxy is not None
    for slot in ("blue", "green"):
        up.proxy.say(f"set maxconn server engines/{slot} 1")

    def post(client: httpx.Client, key: str) -> None:
        assert client.post(f"{up.address}/echo", content=b"?", headers={"authorization": f"Bearer {key}"}).is_success
        order.append(key)

    order: list[str] = []
    with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=100)) as client:
        threads = [threading.Thread(target=post, args=(client, "greedy")) for _ in range(30)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(order) > 2)
        before = len(order)
        post(client, "modest")
        for thread in threads:
            thread.join()
    assert order.index("modest") - before <= 3


def test_a_port_in_use_and_a_missing_proxy_are_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        with pytest.raises(InputError, match=r"in use by another program; end it, or take another: make serve PORT="):
            Endpoint(HOST, other.getsockname()[1])
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(InputError, match="haproxy is not installed; `apt-get install haproxy`"):
        Endpoint(HOST, free_port())


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for this machine that it has signed itself, with its key in the same file."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    names = [tmp_path / name for name in ("key.pem", "cert.pem", "both.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(names[0]), "-out", str(names[1])]
    subprocess.run(command, check=True, capture_output=True)
    names[2].write_bytes(names[1].read_bytes() + names[0].read_bytes())
    return names[2]


def test_tls_is_spoken_with_the_user_s_certificate_and_nothing_else(up: Endpoint, certificate: Path):
    assert up.live is not None
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    up.close()
    secure = Endpoint(HOST, port, certificate)
    try:
        secure.open(ServeRequest(run="two"), print)
        assert secure.address == f"https://{HOST}:{port}/v1"
        trusting = ssl.create_default_context(cafile=certificate)
        assert httpx.post(f"{secure.address}/echo", content=b"?", verify=trusting).json() == "two"
        with pytest.raises(httpx.ConnectError, match="self-signed"):
            httpx.get(f"{secure.address}/models")
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http://{HOST}:{port}/v1/models")
        old = ssl.create_default_context(cafile=certificate)
        old.set_ciphers("DEFAULT:@SECLEVEL=0")  # the client itself would take it
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{secure.address}/models", verify=old)
    finally:
        secure.close()


def test_a_certificate_that_cannot_be_used_is_refused_before_anything_starts(tmp_path, monkeypatch, certificate):
    monkeypatch.chdir(tmp_path)
    for path, found in (
        (Path("none.pem"), "there is no file none.pem"),
        (Path("cert.pem"), "cannot be used as a cert"),
    ):
        with pytest.raises(InputError, match=rf"{found}.*expected a PEM file with the certificate"):
            Endpoint(HOST, free_port(), path)
    spaced = tmp_path / "a b.pem"
    shutil.copy(certificate, spaced)
    with pytest.raises(InputError, match="has a space, which HAProxy takes for its end; move the file"):
        Endpoint(HOST, free_port(), spaced)


def test_what_other_machines_see_is_said_in_a_sentence(tmp_path, monkeypatch, certificate):
    monkeypatch.chdir(tmp_path)
    for host in (HOST, "localhost", "127.0.0.2", "::1"):
        alone = Endpoint(host, free_port())
        assert (alone.exposure(), alone.public_pages) == ("", True)
    port = free_port()
    told = Endpoint("0.0.0.0", port).exposure()
    assert told.startswith(
        f"visible to every machine that reaches 0.0.0.0 port {port}: keys, questions and answers tra"
    )
    assert "travel unencrypted (--certificate FILE encrypts them); /metrics (load) and /provenance" in told
    assert "need a key (--public-pages opens them to everybody); /health is open" in told
    told = Endpoint("0.0.0.0", port, certificate, public_pages=True).exposure()
    assert "travel encrypted;" in told
    assert "are open to everybody;" in told


def test_engines_are_told_whether_their_pages_are_private(up: Endpoint, monkeypatch):
    assert up.public_pages
    seen = []

    def start_seen(*given: Any, private_pages: bool) -> Engine:
        seen.append(private_pages)
        return start(*given)

    monkeypatch.setattr(engines, "start", start_seen)
    up.swap(ServeRequest(run="two"), print)
    up.public_pages = False
    up.swap(ServeRequest(run="three"), print)
    assert seen == [False, True]


def test_what_a_killed_endpoint_has_left_is_no_endpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / ".serve").mkdir()
    (tmp_path / ".serve/state.json").write_text(json.dumps({"pid": ended.pid, "started": 1.0}))
    assert state() is None


def settings(share: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"gpu-memory-utilization": share, "max-num-seqs": 100, **more}


def test_the_cache_is_for_as_many_full_requests_as_there_can_be():
    assert engine_memory.cache_bytes(candidate("one"), settings(), 2**36) == 100 * 1024 * 1024
    assert engine_memory.cache_bytes(candidate("one"), settings(**{"max-model-len": 16}), 2**36) == 100 * 16 * 1024


def test_the_cache_is_no_larger_than_allowed():
    allowed = 2**30 + 50 * 2**20  # weights take 10 MiB of it, the engine 1024
    assert engine_memory.cache_bytes(candidate("one"), settings(), 2 * allowed) == 40 * 2**20


def test_the_cache_on_a_cpu_leaves_the_memory_to_others_and_holds_one_full_request_at_least():
    many = settings(**{"max-num-seqs": 10_000})
    assert engine_memory.cache_bytes(candidate("one"), many, 2**40) == engine_memory.CPU_CACHE
    assert engine_memory.cache_bytes(candidate("one", gpu=True), many, 2**40) == 10_000 * 2**20
    long = settings(**{"max-model-len": 4 * 2**20})
    assert engine_memory.cache_bytes(candidate("one"), long, 2**40) == 4 * 2**30


def test_a_model_that_leaves_no_room_for_a_request_is_refused_with_the_figures():
    with pytest.raises(InputError, match=r"one takes 1\.0 GiB and 0\.0 more for one request of 1024 tokens, and may"):
        engine_memory.cache_bytes(candidate("one"), settings(), 2**31)


def test_two_engines_fit_where_free_memory_is_what_one_takes():
    needed = engine_memory.needed(candidate("one"), settings(), 2**36)
    assert needed == 2**30 + 110 * 2**20
    assert engine_memory.shortage(candidate("one"), settings(), Room(needed, 2**36)) is None
    said = engine_memory.shortage(candidate("one"), settings(), Room(needed - 1, 2**36))
    assert said == "one takes 1.1 GiB and 1.1 of 64.0 GiB are free"


def test_an_engine_is_called_by_the_alias_and_by_its_release():
    given = engines.arguments(candidate("r-1"), 81, settings(), Room(2**36, 2**36))
    assert given[given.index("--served-model-name") :][1:3] == ["aligned", "r-1"]
    on_a_gpu = engines.arguments(candidate("r-1", gpu=True), 81, settings(), Room(2**36, 2**36))
    for argument in ("--enforce-eager", "--no-enable-chunked-prefill"):
        assert argument in given
        assert argument not in on_a_gpu


def test_an_engine_on_several_gpus_is_split_and_takes_its_share_of_each():
    two, room = candidate("r-1", gpu=True, devices=2), Room(2**37, 2**37)
    given = engines.arguments(two, 81, settings(), room)
    assert given[given.index("--tensor-parallel-size") + 1] == "2"
    cache = engine_memory.cache_bytes(two, settings(), room.total)
    assert given[given.index("--kv-cache-memory-bytes") + 1] == str(cache // 2)
    assert "--tensor-parallel-size" not in engines.arguments(candidate("r-1", gpu=True), 81, settings(), room)


def test_an_engine_is_given_the_template_that_the_files_of_its_model_lack():
    room, template = Room(2**36, 2**36), Path(".serve/engine-1.jinja")
    assert "--chat-template" not in engines.arguments(candidate("r-1"), 81, settings(), room)
    command = engines.arguments(candidate("r-1", template=template), 81, settings(), room)
    assert command[command.index("--chat-template") + 1] == str(template)


def test_base_and_adapter_are_two_models_of_one_engine():
    given = engines.names(candidate("r-1", adapter=Path("data/adapter"), rank=24, layers=["q_proj", "v_proj"]))
    assert given[:2] == ["--served-model-name", "base"]
    assert given[given.index("--max-lora-rank") + 1] == "32"
    adapters = given.index("--lora-modules")
    assert given[adapters + 1 : adapters + 3] == ["aligned=data/adapter", "r-1=data/adapter"]
    assert given[-3:] == ["--lora-target-modules", "q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("serve_request", "arguments"),
    [
        (ServeRequest(), ["--run", "."]),
        (ServeRequest(run=".runs/a", with_base=True), ["--run", ".runs/a", "--with-base"]),
        (ServeRequest(hub="me/it", revision="r-1"), ["--hub", "me/it", "--revision", "r-1"]),
    ],
)
def test_the_requested_model_is_the_checked_one(serve_request: ServeRequest, arguments: list[str]):
    assert serve_request.arguments() == arguments


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from stance.client.local import KEY, key_place, make_key, read_key

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STANCE_API_KEY", raising=False)
    with pytest.raises(InputError, match="`make serve` makes one"):
        read_key()
    key = make_key()
    assert len(key) >= 40
    assert stat.S_IMODE(KEY.stat().st_mode) == 0o600
    assert (make_key(), read_key(), key_place()) == (key, key, ".serve/key")
    monkeypatch.setenv("STANCE_API_KEY", "chosen")
    assert (make_key(), read_key(), key_place()) == ("chosen", "chosen", "$STANCE_API_KEY")


def test_what_is_detached_outlives_its_guard(tmp_path: Path):
    from stance.machine.supervisor import DETACHED

    code = (
        "import os, subprocess, sys, time\n"
        f"kept = subprocess.Popen(['sleep', '600'], start_new_session=True, env=os.environ | {{'{DETACHED}': '1'}})\n"
        "ended = subprocess.Popen(['sleep', '601'], start_new_session=True)\n"
        "print(kept.pid, ended.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    guard = guarded([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert guard.stdout is not None
    kept, ended = (int(pid) for pid in guard.stdout.readline().split())
    release(guard)
    import psutil

    try:
        assert psutil.Process(kept).status() == "sleeping"
        wait_until(lambda: not psutil.pid_exists(ended))
    finally:
        psutil.Process(kept).kill()


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (
            "(Engine) WARNING 11-21 20:15:50 [a.py:2] this can cause `OSError: too many files`\n"
            "(Engine) ERROR 11-21 20:15:50 [core.py:1512] ValueError: no room\n"
            "RuntimeError: Engine core initialization failed\n",
            "ValueError: no room; engine.log has the rest",
        ),
        (
            "(Engine) ERROR 11-21 20:16:50 [multiproc_executor.py:315] Worker died unexpectedly (exit code: -4)\n",
            "Worker died unexpectedly (exit code: -4); engine.log has the rest",
        ),
        ("INFO started\n", "see engine.log"),
    ],
)
def test_why_an_engine_ended_is_the_first_error_of_its_log(lines: str, found: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("engine.log").write_text(lines)
    assert engines.reason(Path("engine.log")) == found
