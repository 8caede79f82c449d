"""The endpoint of a project, started as a flow does it, with real engines and a tiny model."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import openai
import psutil

from stance.machine.ports import free_port
from stance.machine.supervisor import guarded, release
from stance.runs.record import Run
from tests.builders.served_run import add_adapter, another, finished, project

DETACH = "from pathlib import Path; from stance.serving.command import serve_run; serve_run(Path())"


class Serving:
    """A project that serves its own run, and has two more.

    `other` has a base and an adapter as well. The figures of `wrong` are those of another model.
    """

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = project(folder / "project", model)
        different = another(model, folder / "different")
        add_adapter(self.run("other", different), model)
        self.run("wrong", model, measured=different)
        self.port = free_port()
        self.clients: list[openai.OpenAI] = []
        self.environment = {key: value for key, value in os.environ.items() if key != "STANCE_API_KEY"}
        self.environment |= {"SERVE_PORT": str(self.port), "PORT": str(self.port)}

    def run(self, name: str, model: Path, measured: Path | None = None) -> Path:
        """Write a completed run, and return its folder."""
        folder = finished(self.folder / ".runs" / name, model, measured)
        Run(name=name, commit="a", snapshot="a", created=datetime.now(UTC), state="completed").write(folder)
        return folder

    def start(self) -> str:
        """Start the endpoint from a process that ends with all its children, as a flow's does, and is ended."""
        command = [sys.executable, "-c", DETACH]
        flow = guarded(command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert flow.stdout is not None
        said = flow.stdout.read()
        release(flow)
        return said

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Type a command of the endpoint's."""
        command = [sys.executable, "-m", "stance", "serve", *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)

    @property
    def key(self) -> str:
        return (self.folder / ".serve/key").read_text().strip()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """Return what the project's clients read from the environment."""
        return {"OPENAI_BASE_URL": f"{self.root}/v1", "OPENAI_API_KEY": self.key}

    def client(self, key: str | None = None) -> openai.OpenAI:
        """Return the official client, which is not to try again."""
        client = openai.OpenAI(base_url=f"{self.root}/v1", api_key=key or self.key, max_retries=0, timeout=60)
        self.clients.append(client)
        return client

    def release(self) -> str:
        """Return the release that answers."""
        return str(httpx.get(f"{self.root}/provenance").json()["release"])

    def processes(self) -> list[psutil.Process]:
        """Return what runs in the project."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.folder):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@contextmanager
def serving(folder: Path, model: Path) -> Iterator[Serving]:
    """Start an endpoint; it ends, with all its processes, when the context does."""
    endpoint = Serving(folder, model)
    printed = endpoint.start()
    assert f"up: {endpoint.root}/v1  release r-" in printed, printed
    try:
        yield endpoint
    finally:
        for client in endpoint.clients:
            client.close()
        endpoint.command("stop")
        assert endpoint.processes() == []
