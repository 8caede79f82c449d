"""A signature holds for exactly the files and the key that it was made with, and others can read its format."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from stance.errors import InputError
from stance.machine.files import digest
from stance.runs.signature import KEY, PUBLIC, fingerprint, private_key, public_key, sign, verify
from stance.runs.verification import verify_folder

FILES = {"merged/model.safetensors": "ab" * 32, "params.yaml": "cd" * 32}


def test_it_holds_for_these_files_and_this_key():
    signature = sign("r-1", FILES, private_key())
    assert verify(signature, FILES | {"model.sig": "0" * 64, ".gitattributes": "1" * 64}, public_key(), "here") == "r-1"
    assert sign("r-1", FILES, private_key()) == signature


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (FILES | {"params.yaml": "ef" * 32}, "params.yaml"),
        (FILES | {"more.txt": "ef" * 32}, "more.txt"),
        ({"params.yaml": "cd" * 32}, "merged/model.safetensors"),
    ],
)
def test_a_file_that_was_changed_added_or_lost_is_named(files, named):
    with pytest.raises(InputError, match=f"^here is not what was signed: {named} changed, added or lost"):
        verify(sign("r-1", FILES, private_key()), files, public_key(), "here")


def test_another_key_and_an_edited_manifest_are_refused():
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(InputError, match=f"was not signed with the key {fingerprint(other.public_key())[:16]}"):
        verify(sign("r-1", FILES, private_key()), FILES, other.public_key(), "here")
    bundle = json.loads(sign("r-1", FILES, private_key()))
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b"cdcd", b"efef")
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    with pytest.raises(InputError, match=r"or its model.sig was edited"):
        verify(json.dumps(bundle).encode(), FILES | {"params.yaml": "ef" * 32}, public_key(), "here")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"dsseEnvelope": {"payload": "?"}}'])
def test_what_is_no_signature_is_said_in_a_sentence(content):
    with pytest.raises(InputError, match=r"model.sig of here is no signature of OpenSSF Model Signing"):
        verify(content, FILES, public_key(), "here")


def test_the_first_release_makes_a_key_that_only_this_user_can_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STANCE_SIGNING_KEY")
    monkeypatch.delenv("STANCE_PUBLIC_KEY")
    with pytest.raises(InputError, match=r"ask the signer of the release for the public key"):
        public_key()
    made = private_key()
    assert KEY.stat().st_mode & 0o777 == 0o600
    assert fingerprint(made.public_key()) == fingerprint(public_key())
    assert fingerprint(private_key().public_key()) == fingerprint(made.public_key())
    KEY.write_text("no key")
    with pytest.raises(InputError, match="is no private key without a password"):
        private_key()


def test_the_command_verifies_a_folder_that_has_nothing_else_of_this_project(tmp_path):
    """Even the public key lies elsewhere."""
    folder, key = tmp_path / "release", Path(os.environ["STANCE_SIGNING_KEY"])
    (folder / "merged").mkdir(parents=True)
    (folder / "merged/config.json").write_text("{}")
    hashes = {"merged/config.json": digest(folder / "merged/config.json").sha256}
    (folder / "model.sig").write_bytes(sign("r-1", hashes, private_key()))
    command = [sys.executable, "-m", "stance", "verify", str(folder), "--key", str(key.with_name(PUBLIC))]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"{folder} holds r-1, signed with the key {fingerprint(public_key())[:16]}")
    (folder / "merged/config.json").write_text("[]")
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"error: {folder} is not what was signed: merged/config.json changed")


def test_a_link_in_a_release_is_no_file_of_it(tmp_path):
    (tmp_path / "release").mkdir()
    (tmp_path / "release/model.sig").touch()
    (tmp_path / "release/config.json").symlink_to(tmp_path)
    with pytest.raises(InputError, match="config.json is a link"):
        verify_folder(tmp_path / "release", public_key())
