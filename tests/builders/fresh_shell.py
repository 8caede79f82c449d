"""A clone with an environment of its own, and commands that are typed there in a shell where nothing is set."""

import shutil
import subprocess
import sys
from pathlib import Path

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def make_environment(project: Path) -> Path:
    """Make `.venv` in a clone, in milliseconds: a new environment that reads the packages of the running one.

    It is not a link to the running environment, and has none of its files. So `make` and pip cannot change the running
    one from the clone. `make` takes it as complete, because scripts and pins are where `install.sh` looks for them.
    """
    running, made = Path(sys.prefix), project / ".venv"
    (made / "bin").mkdir(parents=True)
    shutil.copy(running / "pyvenv.cfg", made)
    shutil.copytree(running / "installed", made / "installed")
    for path in filter(Path.is_file, (running / "bin").iterdir()):
        copy_script(path, made / "bin" / path.name, running, made)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = made / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    theirs = running / "lib" / version / "site-packages"
    (packages / "running.pth").write_text(f"import site; site.addsitedir({str(theirs)!r})\n")
    return made


def copy_script(path: Path, copy: Path, running: Path, made: Path) -> None:
    """Copy a program of an environment; a script names its interpreter, and the copy names its own."""
    if path.is_symlink():
        copy.symlink_to(path.readlink())
        return
    shutil.copy(path, copy)
    content = copy.read_bytes()
    if content.startswith(b"#!"):
        copy.write_bytes(content.replace(bytes(running), bytes(made)))


def type_in(project: Path, line: str, within: float = 120) -> "subprocess.CompletedProcess[str]":
    """Type a line in a shell whose environment holds PATH, as the system sets it, and HOME."""
    home = project.parent / "home"
    home.mkdir(exist_ok=True)
    command = ["env", "-i", f"PATH={SYSTEM_PATH}", f"HOME={home}", "/bin/sh", "-c", line]
    return subprocess.run(
        command, cwd=project, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=within,
    )  # fmt: skip
