"""`deploy/compose.yaml`: what Docker Compose makes of it, and that what it names is here."""

import os
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

COMPOSE = Path("deploy/compose.yaml")
SECRETS = {"POSTGRES_PASSWORD": "one", "STANCE_API_KEY": "two"}


def composed(**environment: str) -> "subprocess.CompletedProcess[str]":
    """Return what Compose makes of the file."""
    program = shutil.which("docker-compose")
    if not program:
        pytest.skip("docker-compose is not installed")
    settings = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(
        [program, "-f", str(COMPOSE), "--profile", "serving", "config"], env=settings, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    done = composed(**SECRETS)
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout)["services"])


def test_compose_takes_the_file_and_starts_what_a_release_needs(services):
    assert set(services) == {"postgres", "prefect", "worker", "vllm", "proxy", "prometheus"}


@pytest.mark.parametrize("missing", SECRETS)
def test_a_secret_that_is_not_set_is_named_before_anything_starts(missing):
    done = composed(**{name: value for name, value in SECRETS.items() if name != missing})
    assert done.returncode != 0
    assert "deploy/.env" in done.stderr


def test_nothing_listens_but_on_the_loopback_address(services):
    ports = [str(port) for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_file_of_the_project_that_is_mounted_or_named_is_here(services):
    mounted = [volume.split(":")[0] for known in services.values() for volume in known.get("volumes", [])]
    assert all(Path(path).exists() for path in mounted if path.startswith("/"))
    [command] = services["vllm"]["command"]
    assert all(Path(path).exists() for path in re.findall(r"/project/(deploy/\S+)", command))
    assert "--config=/project/deploy/vllm.yaml" in command


def test_the_middleware_and_the_versions_are_those_of_this_project(services):
    [command] = services["vllm"]["command"]
    [(module, name)] = re.findall(r"--middleware=(\S+)\.(\w+)", command)
    assert isinstance(getattr(import_module(module), name), type)
    pins = dict(line.split("==") for line in Path("requirements/gpu.txt").read_text().splitlines() if "==" in line)
    assert services["prefect"]["image"].startswith(f"prefecthq/prefect:{pins['prefect']}-")
    assert services["vllm"]["image"] == f"vllm/vllm-openai:v{pins['vllm']}"


def test_the_proxy_takes_its_file_with_what_the_container_is_given(services):
    haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if not haproxy:
        pytest.skip("haproxy is not installed")
    given = {**services["proxy"]["environment"], "SERVE_BLUE": "127.0.0.1:8000"}  # there is no host vllm here
    done = subprocess.run([haproxy, "-c", "-f", "deploy/haproxy.cfg"], env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_secrets_are_in_no_file_that_git_keeps():
    kept = subprocess.run(["git", "check-ignore", "deploy/.env"], capture_output=True)
    assert kept.returncode == 0
    example = Path("deploy/example.env").read_text().splitlines()
    assert all(line.startswith("#") or line.endswith("=") for line in example)
