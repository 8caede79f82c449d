"""A work pool of a Prefect server, and machines with a worker each: a checkout, a cache and a remote of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from stance.runs.record import RECORD, Run
from tests.builders.prefect_ui import Ui
from tests.builders.repository import git

POOL = ("work-pool", "create", "stance", "--type", "process", "--overwrite")
DEPLOY = ("--no-prompt", "deploy", "--all", "--prefect-file", "deploy/prefect.yaml")


class Machine:
    """Another checkout of a project, with a cache of its own, and a worker in it."""

    def __init__(self, ui: Ui, remote: Mapping[str, object], name: str = "machine", at_once: int = 2) -> None:
        self.folder = ui.project.parent / name / "checkout"
        git(ui.project, "clone", "--quiet", str(ui.project), str(self.folder))
        for checkout in (ui.project, self.folder):
            write_remote(checkout, remote)
        home = {"PREFECT_HOME": str(ui.project.parent / name / "prefect"), "POOL": "stance"}
        limit = {"PREFECT_RUNNER_PROCESS_LIMIT": str(at_once)}
        self.environment = {**os.environ, **home, **limit, "PREFECT_API_URL": f"http://127.0.0.1:{ui.port}/api"}

    def prefect(self, folder: Path, *command: str) -> None:
        """Type a command of Prefect's in a folder."""
        whole = [sys.executable, "-m", "prefect", *command]
        done = subprocess.run(whole, cwd=folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def deploy(self, project: Path) -> None:
        """Make the pool and its deployments."""
        self.prefect(project, *POOL)
        self.prefect(project, *DEPLOY)

    def start(self) -> None:
        """Start a worker."""
        command = [sys.executable, "-m", "flows.worker"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        """End the worker with `kill -9`."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the worker as Ctrl+C does."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=60) == 0

    @property
    def log(self) -> Path:
        """What the worker prints."""
        return self.folder.parent / "worker.log"

    def workspace(self, run: Mapping[str, object]) -> Path:
        """Return a run's workspace on this machine."""
        return self.folder / ".runs" / str(run["name"])

    def runs(self) -> dict[str, Run]:
        """Return the records of the runs of this machine."""
        return {path.parents[2].name: Run.read(path.parents[2]) for path in self.folder.glob(f".runs/*/{RECORD}")}


def write_remote(project: Path, values: Mapping[str, object]) -> None:
    """Let the remote `store` with these values be DVC's default remote of a checkout."""
    lines = ("[core]", "    remote = store", "['remote \"store\"']", *(f"    {key} = {values[key]}" for key in values))
    (project / ".dvc/config.local").write_text("\n".join(lines) + "\n")


def sweep_on_pool(machine: Machine, project: Path, grid: str) -> "subprocess.Popen[str]":
    """Start a sweep of a grid on the pool."""
    command = [sys.executable, "-m", "flows.sweep", grid, "--jobs", "pool"]
    return subprocess.Popen(
        command,
        cwd=project,
        env=machine.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
