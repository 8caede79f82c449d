"""The command `python -m stance verify FOLDER|REPO@TAG`: are the files of a release those that were signed?

It needs the public key of the signer and nothing else of this project: no run, no DVC and no git.
"""

import argparse
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from stance.errors import InputError
from stance.machine.files import digest, files_below
from stance.machine.plain import require_plain
from stance.models import hub
from stance.runs.signature import SIGNATURE, UNSIGNED, fingerprint, public_key, verify


def verify_folder(folder: Path, key: EllipticCurvePublicKey) -> str:
    """Return the name of the release in a folder.

    Raises:
        InputError: It is not what was signed, or holds a link; names the file.
    """
    if not (folder / SIGNATURE).is_file():
        raise InputError(f"{folder} has no {SIGNATURE}; expected the folder of a signed release")
    require_plain(folder.parent, [folder.name])
    names = [path.relative_to(folder).as_posix() for path in files_below(folder)]
    hashes = {name: digest(folder / name).sha256 for name in names if name not in UNSIGNED}
    return verify((folder / SIGNATURE).read_bytes(), hashes, key, str(folder))


def verify_on_hub(repo_id: str, revision: str, key: EllipticCurvePublicKey) -> str:
    """Return the name of a release on the Hub, after fetching and hashing all its files.

    Raises:
        InputError: It is not what was signed; names the file.
        Unreachable: The Hub does not answer.
    """
    return fetch_verified(hub.look_up(repo_id, revision, "serve"), key)[1]


def fetch_verified(listing: hub.Listing, key: EllipticCurvePublicKey) -> tuple[Path, str]:
    """Return the folder of a fetched release, and its name; errors are those of `verify_on_hub`."""
    if SIGNATURE not in listing.files:
        raise InputError(f"{listing} has no {SIGNATURE}; expected a signed release: name another")
    if inside := sorted(name for name in listing.files if "/" in name):
        raise InputError(f"{listing} holds {inside[0]}, and a release has no folders; name another")
    folder, files = hub.fetch(listing, sorted(listing.files), "serve")
    hashes = {name: file.sha256 for name, file in files.items()}
    return folder, verify((folder / SIGNATURE).read_bytes(), hashes, key, str(listing))


def main() -> None:
    """Verify a release: `python -m stance verify FOLDER|REPO@TAG [--key FILE]`."""
    parser = argparse.ArgumentParser(
        description="Check that the files of a release are those that were signed: nothing changed, added or lost."
    )
    parser.add_argument("release", help="a folder like data/release, or OWNER/NAME@TAG on the Hub")
    parser.add_argument("--key", type=Path, help="the signer's public key, in PEM (default: that of this project)")
    options = parser.parse_args()
    key = public_key(options.key)
    repo_id, at, revision = options.release.partition("@")
    if Path(options.release).is_dir():
        name = verify_folder(Path(options.release), key)
    elif at and revision:
        name = verify_on_hub(repo_id, revision, key)
    else:
        raise InputError(f"{options.release} is no folder; expected a folder, or OWNER/NAME@TAG on the Hub")
    print(f"{options.release} holds {name}, signed with the key {fingerprint(key)[:16]}")
