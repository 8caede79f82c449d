"""Named keys: how they are made, kept, limited and revoked."""

import stat

import pytest

from stance.errors import InputError
from stance.serving import keys
from stance.serving.keys import KEYS, Keys, NamedKey, Share
from stance.serving.refusals import Refusal


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_key_is_accepted_as_soon_as_it_is_made_until_it_is_revoked():
    accepted = Keys("mine")
    assert accepted.holder("Bearer mine").name == "owner"
    key = keys.add("ada", 3)
    assert accepted.holder(f"bearer {key}") == keys.read_keys()[0]
    assert accepted.holder(f"Bearer {key}").at_once == 3
    keys.revoke("ada")
    with pytest.raises(Refusal, match="the key is not accepted; it is wrong, or was revoked") as refused:
        accepted.holder(f"Bearer {key}")
    assert refused.value.status == 401
    assert accepted.holder("Bearer mine").name == "owner"


@pytest.mark.parametrize("sent", ["", "Bearer", "Bearer ", "Basic mine", "mine"])
def test_a_header_without_a_key_is_refused(sent: str):
    with pytest.raises(Refusal, match="no key was sent; expected the header Authorization: Bearer KEY"):
        Keys("mine").holder(sent)


def test_no_key_is_kept_and_the_file_is_its_owners():
    key = keys.add("ada")
    assert key not in KEYS.read_text()
    assert stat.S_IMODE(KEYS.stat().st_mode) == 0o600


def test_names_that_are_taken_or_cannot_be_are_refused():
    keys.add("ada")
    for name in ("ada", "owner"):
        with pytest.raises(InputError, match=f"there is a key {name} already"):
            keys.add(name)
    for name, at_once in (("", 1), ("a b", 1), ("ok", 0)):
        with pytest.raises(InputError, match="expected letters, digits, dots and hyphens, and a number from 1"):
            keys.add(name, at_once)
    with pytest.raises(InputError, match="there is no key bob; expected one of: ada"):
        keys.revoke("bob")


def test_a_file_that_is_broken_accepts_nobody_but_the_owner(capsys):
    key = keys.add("ada")
    accepted = Keys("mine")
    accepted.holder(f"Bearer {key}")
    KEYS.write_text("[")
    with pytest.raises(Refusal, match="not accepted"):
        accepted.holder(f"Bearer {key}")
    assert accepted.holder("Bearer mine").name == "owner"
    assert "named keys are refused: .serve/keys.json is no list of keys" in capsys.readouterr().out
    with pytest.raises(InputError, match="remove it, and add the keys again"):
        keys.read_keys()


def test_a_key_holds_no_more_than_its_share():
    share, ada, bob = Share(), NamedKey(name="ada", sha256="", at_once=4), NamedKey(name="bob", sha256="", at_once=4)
    with share.taken(ada, 3), share.taken(bob, 4):
        with (
            pytest.raises(
                Refusal, match="ada has 3 answers running, and this request asks for 2; the limit is 4"
            ) as refused,
            share.taken(ada, 2),
        ):
            pass
        assert (refused.value.status, refused.value.headers) == (429, {"retry-after": "1"})
        with share.taken(ada, 1):
            pass
    with share.taken(ada, 4):
        pass


def test_the_command_makes_lists_and_revokes(monkeypatch, capsys):
    def command(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["keys", *arguments])
        keys.main()
        return capsys.readouterr().out.strip()

    assert command("list") == "there are no named keys; make one: python -m stance keys add NAME"
    assert command() == command("list")
    for action in ("add", "revoke"):
        with pytest.raises(InputError, match=f"no name was given; expected: python -m stance keys {action} NAME"):
            command(action)
    key = command("add", "ada", "--at-once", "3")
    assert Keys("mine").holder(f"Bearer {key}").name == "ada"
    assert command("list").startswith("ada                  at most 3 answers at once, made 2")
    assert key not in command("list")
    assert command("revoke", "ada") == "revoked: ada"
    assert command("list").startswith("there are no named keys")
