"""The edge's list of people: it takes the passwords that adapters/keys.py makes, and no others."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lupa.lua54 import LuaRuntime
from understudy.adapters.edge_config import TEMPLATES
from understudy.adapters.keys import (
    USERS,
    add_user,
    initialise,
    remove_user,
    reset_password,
)
from understudy.config import parse
from understudy.core.roles import ROLES_OF_PEOPLE, Role

RUNTIME: Any = LuaRuntime(encoding=None, unpack_returned_tuples=True)
RUNTIME.globals()[b"package"][b"path"] = str(TEMPLATES / "?.lua").encode()
PEOPLE = RUNTIME.eval(b"(require('people'))")


class Digests:
    """Computes SHA-512 and counts how much it was given."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, content: bytes) -> bytes:
        self.calls += 1
        return hashlib.sha512(content).digest()


def identify(text: str, name: str, password: str) -> tuple[str, str] | None:
    """Return name and role where the list takes the password."""
    listed = PEOPLE[b"parse"](text.encode())
    assert listed is not None
    found = PEOPLE[b"identify"](listed, f"{name}:{password}".encode(), Digests())
    return None if found is None else (found[0].decode(), found[1].decode())


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    keys, state = tmp_path / "keys", tmp_path / "state"
    keys.mkdir()
    state.mkdir()
    initialise(
        keys, state, parse({"Vaults": [{"Name": "v", "Directory": "/v", "Recipients": [RECIPIENT]}]}), {}
    )
    return keys


RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"


@pytest.mark.parametrize(
    "password", ["x", "correct horse", "ümlaut:colon", "a" * 63, "b" * 64, "c" * 65, "d" * 128]
)
@pytest.mark.parametrize("salt", ["a", "./0123456789ABCD"])
def test_hash_is_that_of_openssl(password: str, salt: str) -> None:
    command = ["openssl", "passwd", "-6", "-salt", f"rounds=1000${salt}", "-stdin"]
    done = subprocess.run(command, input=password + "\n", capture_output=True, text=True, check=True)
    expected = done.stdout.strip()
    assert PEOPLE[b"crypt"](password.encode(), expected.encode(), Digests()).decode() == expected


def test_each_person_is_known_by_name_role_and_password(keys: Path) -> None:
    passwords = {
        name: add_user(keys, name, ROLES_OF_PEOPLE[role])
        for name, role in (("anna", "reader"), ("ben", "operator"))
    }
    text = (keys / USERS).read_text()
    assert identify(text, "anna", passwords["anna"]) == ("anna", "reader")
    assert identify(text, "ben", passwords["ben"]) == ("ben", "operator")
    for name, password in (("anna", passwords["ben"]), ("anna", ""), ("", ""), ("eve", passwords["anna"])):
        assert identify(text, name, password) is None


def test_who_is_removed_or_has_another_password_is_known_no_more(keys: Path) -> None:
    first = add_user(keys, "anna", Role.READER)
    second = reset_password(keys, "anna")
    text = (keys / USERS).read_text()
    assert identify(text, "anna", first) is None
    assert identify(text, "anna", second) == ("anna", "reader")
    remove_user(keys, "anna")
    assert identify((keys / USERS).read_text(), "anna", second) is None


@pytest.mark.parametrize("name", ["anna", "nobody"])
def test_a_wrong_password_costs_the_same_whether_anybody_has_the_name(keys: Path, name: str) -> None:
    add_user(keys, "anna", Role.READER)
    listed = PEOPLE[b"parse"]((keys / USERS).read_bytes())
    digests = Digests()
    assert PEOPLE[b"identify"](listed, f"{name}:{'w' * 24}".encode(), digests) is None
    assert digests.calls == 1004


def test_a_password_without_end_is_not_hashed(keys: Path) -> None:
    listed = PEOPLE[b"parse"]((keys / USERS).read_bytes())
    given = []

    def sha512(content: bytes) -> bytes:
        given.append(len(content))
        return hashlib.sha512(content).digest()

    assert PEOPLE[b"identify"](listed, b"admin:" + b"x" * 60_000, sha512) is None
    assert max(given) <= 128 * 128


@pytest.mark.parametrize("pair", [b"", b":", b"admin", b"admin:\0", b"\xff:\xff", b"admin:a:b"])
def test_an_odd_pair_is_nobody(keys: Path, pair: bytes) -> None:
    listed = PEOPLE[b"parse"]((keys / USERS).read_bytes())
    assert PEOPLE[b"identify"](listed, pair, Digests()) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "userlist understudy",
        "userlist other\n",
        "userlist understudy\n    user eve password $6$rounds=1000$a$b\n",
        "userlist understudy\n    group admin users eve\n    user eve insecure-password x\n",
        "userlist understudy\n    group admin users eve\n    nothing\n",
    ],
)
def test_a_list_that_is_not_ours_is_refused(text: str) -> None:
    assert PEOPLE[b"parse"](text.encode()) is None


def test_a_hash_of_another_kind_lets_nobody_in() -> None:
    text = "userlist understudy\n    group admin users eve\n    user eve password x\n"
    assert identify(text, "eve", "x") is None
    assert identify(text, "eve", "") is None
