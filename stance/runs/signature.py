"""The signature of a release, in the format of OpenSSF Model Signing (OMS) 1.0, which other programs verify as well.

The file `model.sig` is a Sigstore bundle: a DSSE envelope around an in-toto statement, which holds the SHA-256 of every
other file of the release. A private key on an elliptic curve (NIST P-256) signs it. `sign` and `verified` know only
names, hashes and keys; `stance.runs.verification` reads the files.

A signature proves that whoever holds the private key has signed exactly these files. It does not prove who that is, nor
that the files are good: the owner of the key hands the public key over on another way than the release.
Source: https://github.com/ossf/model-signing-spec
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stance.errors import InputError

SIGNATURE = "model.sig"
UNSIGNED = (SIGNATURE, ".gitattributes")
"""The Hub writes `.gitattributes` itself."""
KEY = Path(".signing/key.pem")
"""In the project; git and DVC ignore it."""
PUBLIC = "key.pub.pem"
KEY_VARIABLE, PUBLIC_VARIABLE = "STANCE_SIGNING_KEY", "STANCE_PUBLIC_KEY"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
ALGORITHM = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
"""RFC 6979: the same files and key give the same bytes, so that a push that is repeated sends nothing."""


def sign(name: str, files: Mapping[str, str], key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the content of `model.sig`.

    Args:
        name: The name of the release.
        files: The SHA-256 of every file, in hexadecimal, by its path in the release.
        key: The private key.
    """
    payload = json.dumps(_statement(name, files), sort_keys=True).encode()
    envelope = {
        "payload": _base64(payload),
        "payloadType": PAYLOAD,
        "signatures": [{"sig": _base64(key.sign(_encoded(payload), ALGORITHM)), "keyid": ""}],
    }
    material = {"publicKey": {"hint": fingerprint(key.public_key())}, "tlogEntries": []}
    bundle = {"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}
    return (json.dumps(bundle, indent=1) + "\n").encode()


def _statement(name: str, files: Mapping[str, str]) -> dict[str, Any]:
    resources = [{"name": path, "algorithm": "sha256", "digest": files[path]} for path in sorted(files)]
    root = hashlib.sha256(b"".join(bytes.fromhex(row["digest"]) for row in resources)).hexdigest()
    how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(UNSIGNED)}
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE,
        "predicate": {"serialization": how, "resources": resources},
    }


def _encoded(payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def verify(signature: bytes, files: Mapping[str, str], key: ec.EllipticCurvePublicKey, origin: str) -> str:
    """Return the name of the release that a signature is of.

    Args:
        signature: The content of `model.sig`.
        files: The SHA-256 of every file that is there, by path; those in `UNSIGNED` do not count.
        key: The public key of the signer.
        origin: The folder or repository, for an error.

    Raises:
        InputError: The key is another one, or a file was changed, added or lost; names it.
    """
    statement = _opened(signature, key, origin)
    signed = {row["name"]: row["digest"] for row in statement["predicate"]["resources"]}
    present = {path: digest for path, digest in files.items() if path not in UNSIGNED}
    if other := sorted(path for path in signed.keys() | present.keys() if signed.get(path) != present.get(path)):
        raise InputError(
            f"{origin} is not what was signed: {', '.join(other)} changed, added or lost; fetch or make it again"
        )
    return str(statement["subject"][0]["name"])


def _opened(signature: bytes, key: ec.EllipticCurvePublicKey, origin: str) -> dict[str, Any]:
    """Return the statement in a bundle whose signature holds."""
    try:
        envelope = json.loads(signature)["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        key.verify(base64.b64decode(envelope["signatures"][0]["sig"], validate=True), _encoded(payload), ALGORITHM)
        statement: dict[str, Any] = json.loads(payload)
        kinds = (envelope["payloadType"], statement["_type"], statement["predicateType"])
    except InvalidSignature:
        raise InputError(
            f"{origin} was not signed with the key {fingerprint(key)[:16]}, or its {SIGNATURE} was edited; name the "
            f"public key of the signer by --key or {PUBLIC_VARIABLE}"
        ) from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise InputError(f"{SIGNATURE} of {origin} is no signature of OpenSSF Model Signing; fetch it again") from None
    if kinds != (PAYLOAD, STATEMENT, PREDICATE):
        raise InputError(f"{SIGNATURE} of {origin} signs {kinds[2]}, expected {PREDICATE}; name a signed release")
    return statement


def private_key() -> ec.EllipticCurvePrivateKey:
    """Return the private key of this project; the first call makes it, and its public key beside it.

    Raises:
        InputError: The file that `STANCE_SIGNING_KEY` names is missing, or is no such key.
    """
    path = Path(os.environ.get(KEY_VARIABLE) or KEY)
    if not path.exists():
        if path != KEY:
            raise InputError(f"{path}, which {KEY_VARIABLE} names, does not exist; name the PEM file of a private key")
        make_key(path)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is no private key without a password ({error}); expected PEM") from None
    if not (isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)):
        raise InputError(
            f"{path} is no key on the curve P-256; make one: openssl ecparam -name prime256v1 -genkey -noout"
        )
    return key


def make_key(path: Path) -> None:
    """Make a private key that only this user can read, and its public key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    path.with_name(PUBLIC).write_bytes(_pem(key.public_key()))


def public_key(path: Path | None = None) -> ec.EllipticCurvePublicKey:
    """Return a public key: the one in a file, or the one that `STANCE_PUBLIC_KEY` names, or this project's own.

    Raises:
        InputError: There is none, or the file holds another kind of key.
    """
    chosen = path or Path(os.environ.get(PUBLIC_VARIABLE) or KEY.with_name(PUBLIC))
    try:
        key = serialization.load_pem_public_key(chosen.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{chosen} does not exist; ask the signer of the release for the public key, and name its file by "
            f"--key or {PUBLIC_VARIABLE}"
        ) from None
    except ValueError as error:
        raise InputError(f"{chosen} is no public key ({error}); expected PEM") from None
    if not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)):
        raise InputError(f"{chosen} is no public key on the curve P-256; ask the signer of the release for it")
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of a public key in PEM, which a signature names it by."""
    return hashlib.sha256(_pem(key)).hexdigest()


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
