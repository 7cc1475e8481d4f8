"""Keys: one consistent set after a kill at any moment, users that HAProxy can check, secrets shown once."""

import ipaddress
import os
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from understudy.adapters.encryption import AgeOpener, AgeSealer, new_key_pair
from understudy.adapters.keys import (
    CERTIFICATE,
    FIRST_START,
    READY,
    RECIPIENT,
    REVOKED,
    SERVICES,
    SHARES,
    SIGNING,
    USERS,
    FirstStart,
    KeysError,
    add_user,
    allow_certificate,
    initialise,
    remove_user,
    reset_password,
    revoke_certificate,
    revoked_certificates,
    share_of,
    show_first_start,
    signing_key,
    users,
    vault_recipient,
)
from understudy.config import Understudy, parse
from understudy.core.errors import NotFoundError, RefusedError
from understudy.core.roles import Role

PLAIN = Understudy()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    keys, state = tmp_path / "keys", tmp_path / "state"
    keys.mkdir()
    state.mkdir()
    return keys, state


def with_recipients(*recipients: str) -> Understudy:
    return parse({"Vaults": [{"Name": "own", "Directory": "/x", "Recipients": list(recipients)}]})


def with_shares(keys: Path) -> None:
    """Make the volumes of the other services, as the agent sees them."""
    for service in SHARES:
        share_of(keys, service).mkdir()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def shown(keys: Path, state: Path) -> FirstStart:
    seen: list[FirstStart] = []
    assert show_first_start(keys, state, seen.append)
    (first_start,) = seen
    return first_start


def crypt(password: str, hashed: str) -> str:
    """Compute the hash again with the salt of the one given, by openssl."""
    _, scheme, rounds, salt, _ = hashed.split("$")
    assert scheme == "6"
    command = ["openssl", "passwd", "-6", "-salt", f"{rounds}${salt}", "-stdin"]
    return subprocess.run(command, input=password, capture_output=True, text=True, check=True).stdout.strip()


def assert_consistent(keys: Path, state: Path) -> None:
    """Check that what is shown once fits all that was derived from it."""
    first_start = shown(keys, state)
    assert all(astuple(first_start))
    (admin,) = users(keys)
    assert (admin.name, admin.role) == ("admin", Role.ADMIN)
    assert crypt(first_start.password, admin.password_hash) == admin.password_hash
    assert AgeOpener(first_start.vault_identity).open(AgeSealer([vault_recipient(keys)]).seal(b"x")) == b"x"
    certificate = x509.load_pem_x509_certificate((keys / CERTIFICATE).read_bytes())
    assert certificate.fingerprint(hashes.SHA256()).hex(":").upper() == first_start.tls_fingerprint_sha256
    private = load_pem_private_key((keys / CERTIFICATE).read_bytes(), None)
    assert private.public_key() == certificate.public_key()
    assert all(len((keys / service).read_text()) >= 43 for service in SERVICES)
    assert len(signing_key(keys)) == 32
    for service, names in SHARES.items():
        if share_of(keys, service).is_dir():
            assert snapshot(share_of(keys, service)) == {name: (keys / name).read_bytes() for name in names}


def test_initialise_makes_one_consistent_set(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    assert_consistent(keys, state)


def test_initialise_again_changes_nothing(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    before = snapshot(keys), snapshot(state)
    initialise(keys, state, PLAIN, {"UNDERSTUDY_HOSTNAMES": "other"})
    assert (snapshot(keys), snapshot(state)) == before


def test_initialise_twice_makes_different_secrets(tmp_path: Path) -> None:
    secrets: list[str] = []
    for name in ("a", "b"):
        keys, state = tmp_path / name / "keys", tmp_path / name / "state"
        keys.mkdir(parents=True)
        state.mkdir()
        initialise(keys, state, PLAIN, {})
        first_start = shown(keys, state)
        secrets += [first_start.password, first_start.tls_fingerprint_sha256, first_start.vault_identity]
        secrets += [(keys / name).read_text() for name in (*SERVICES, SIGNING)]
    assert len(set(secrets)) == 12


def test_initialise_gives_every_file_a_tight_mode(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    with_shares(keys)
    initialise(keys, state, PLAIN, {})
    for folder in (keys, *(share_of(keys, service) for service in SHARES)):
        assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o640}
        assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_dir()} == {0o750}
    assert (state / FIRST_START).stat().st_mode & 0o777 == 0o600


def test_initialise_killed_at_each_rename_and_repeated_ends_in_one_consistent_set(tmp_path: Path) -> None:
    """A process of its own is ended without any clean-up before each step that reaches the disk."""
    script = """
import os, pathlib, sys
from understudy.adapters.keys import SHARES, initialise, share_of
from understudy.config import Understudy
def run(keys, state, at):
    calls = 0
    def audit(event, arguments):
        nonlocal calls
        writes = event == "open" and ".part" in str(arguments[0])
        if writes or event in ("os.rename", "os.mkdir", "os.remove"):
            calls += 1
            if calls == at:
                os._exit(137)
    sys.addaudithook(audit)
    initialise(keys, state, Understudy(), {})
    os._exit(0)
step, status = 0, 137
while status == 137:
    step += 1
    keys, state = (pathlib.Path(sys.argv[1], str(step), name) for name in ("keys", "state"))
    for folder in (keys, state, *(share_of(keys, service) for service in SHARES)):
        folder.mkdir(parents=True)
    if not (child := os.fork()):
        run(keys, state, step)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(step, status)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": "plugins"},
        capture_output=True,
        check=True,
        text=True,
    )
    steps, last = map(int, ended.stdout.split())
    assert last == 0
    for step in range(1, steps + 1):
        keys, state = tmp_path / str(step) / "keys", tmp_path / str(step) / "state"
        shares = [share_of(keys, service) for service in SHARES]
        assert all((share / READY).exists() for share in shares) == (step == steps)
        for share, names in zip(shares, SHARES.values(), strict=True):
            if (share / READY).exists():
                assert snapshot(share).keys() >= set(names), "whoever waits for `ready` finds all the rest"
        if not (keys / READY).exists():
            with pytest.raises(KeysError, match="not complete"):
                show_first_start(keys, state, lambda _: None)
        initialise(keys, state, PLAIN, {})
        assert (keys / READY).exists()
        assert_consistent(keys, state)
    assert steps > 30, "fifteen files, each opened and renamed, are thirty steps at least"


def test_each_service_gets_its_own_keys_and_no_other(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    with_shares(keys)
    initialise(keys, state, PLAIN, {})
    assert_consistent(keys, state)
    secrets_of_others = {SERVICES[1], RECIPIENT, "ledger.anchor"}
    assert not snapshot(share_of(keys, "edge")).keys() & secrets_of_others
    assert snapshot(share_of(keys, "orthanc")).keys() == {*SERVICES, READY}


def test_keys_of_an_earlier_version_are_shared_out_as_they_are(folders: tuple[Path, Path]) -> None:
    """One volume that every service mounted: an update keeps passwords and certificate."""
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    password = add_user(keys, "bert", Role.READER)
    (keys / SIGNING).unlink()
    before = snapshot(keys)
    with_shares(keys)
    initialise(keys, state, PLAIN, {})
    assert {name: content for name, content in snapshot(keys).items() if name != SIGNING} == before
    for service, names in SHARES.items():
        assert snapshot(share_of(keys, service)) == {name: (keys / name).read_bytes() for name in names}
    (bert,) = [user for user in users(keys) if user.name == "bert"]
    assert crypt(password, bert.password_hash) == bert.password_hash


def test_every_change_of_users_reaches_the_edge(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    with_shares(keys)
    initialise(keys, state, PLAIN, {})

    def known() -> list[str]:
        return [user.name for user in users(share_of(keys, "edge"))]

    add_user(keys, "bert", Role.ADMIN)
    assert known() == ["admin", "bert"]
    before = (share_of(keys, "edge") / USERS).read_bytes()
    reset_password(keys, "bert")
    assert (share_of(keys, "edge") / USERS).read_bytes() != before
    remove_user(keys, "admin")
    assert known() == ["bert"]


def test_another_certificate_reaches_the_edge_by_the_next_initialise(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    with_shares(keys)
    initialise(keys, state, PLAIN, {})
    (keys / CERTIFICATE).write_text("another")
    initialise(keys, state, PLAIN, {})
    assert (share_of(keys, "edge") / CERTIFICATE).read_text() == "another"


def test_initialise_with_recipients_of_its_own_makes_no_identity(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, with_recipients(new_key_pair().recipient), {})
    first_start = shown(keys, state)
    assert (first_start.vault_identity, first_start.vault_recipient) == ("", "")
    assert not (keys / RECIPIENT).exists()
    with pytest.raises(KeysError, match="no recipient"):
        vault_recipient(keys)


def test_initialise_with_a_vault_added_later_makes_its_identity_then(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, with_recipients(new_key_pair().recipient), {})
    shown(keys, state)
    before = snapshot(keys)
    initialise(keys, state, with_recipients(), {})
    first_start = shown(keys, state)
    assert first_start.password == ""
    assert AgeOpener(first_start.vault_identity).recipient == vault_recipient(keys)
    assert {name: content for name, content in snapshot(keys).items() if name != RECIPIENT} == before


def test_certificate_names_site_localhost_and_what_the_environment_says(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {"UNDERSTUDY_HOSTNAMES": "pacs.example.org, 192.0.2.7,clinic 2001:db8::1"})
    certificate = x509.load_pem_x509_certificate((keys / CERTIFICATE).read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["clinic", "localhost", "pacs.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(address) for address in ("127.0.0.1", "192.0.2.7", "2001:db8::1")
    ]
    public = certificate.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(public.curve, ec.SECP256R1)
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 825


@pytest.mark.parametrize("name", ["a b/c", "-x", "http://x", "x_y"])
def test_certificate_for_no_host_name_is_refused_and_nothing_is_ready(
    folders: tuple[Path, Path], name: str
) -> None:
    keys, state = folders
    with pytest.raises(KeysError, match="UNDERSTUDY_HOSTNAMES"):
        initialise(keys, state, PLAIN, {"UNDERSTUDY_HOSTNAMES": name.replace(" ", "/")})
    assert not (keys / READY).exists()


def test_first_start_is_shown_once_and_then_gone(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    assert shown(keys, state).password
    assert not (state / FIRST_START).exists()
    assert not show_first_start(keys, state, lambda _: pytest.fail("shown twice"))
    initialise(keys, state, PLAIN, {})
    assert not (state / FIRST_START).exists()


def test_first_start_that_could_not_be_written_out_is_kept(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})

    def broken_terminal(_: FirstStart) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        show_first_start(keys, state, broken_terminal)
    assert_consistent(keys, state)


def test_first_start_overwrites_the_file_before_it_goes(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    os.link(state / FIRST_START, state / "witness")
    shown(keys, state)
    assert set((state / "witness").read_bytes()) == {0}


def test_first_start_never_prints_a_secret_by_accident(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    first_start = shown(keys, state)
    for text in (repr(first_start), str(first_start), f"{first_start}", repr(users(keys))):
        assert first_start.password not in text
        assert first_start.vault_identity not in text
        assert "$6$" not in text


@pytest.mark.parametrize("role", list(Role))
def test_add_user_gives_a_password_that_fits_its_hash(folders: tuple[Path, Path], role: Role) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    password = add_user(keys, "anna-2", role)
    (user,) = [user for user in users(keys) if user.name == "anna-2"]
    assert user.role is role
    assert crypt(password, user.password_hash) == user.password_hash
    assert len(password) * 6 >= 128
    assert password not in "".join(content.decode() for content in snapshot(keys).values())


def test_users_cfg_is_a_userlist_with_a_group_for_each_role(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    add_user(keys, "bert", Role.READER)
    add_user(keys, "carl", Role.READER)
    lines = (keys / USERS).read_text().splitlines()
    assert lines[:4] == [
        "userlist understudy",
        "    group admin users admin",
        "    group operator",
        "    group reader users bert,carl",
    ]
    assert [line.split()[:3] for line in lines[4:]] == [
        ["user", name, "password"] for name in ("admin", "bert", "carl")
    ]


def test_remove_user_takes_one_and_keeps_the_others(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    add_user(keys, "bert", Role.OPERATOR)
    add_user(keys, "carl", Role.ADMIN)
    remove_user(keys, "bert")
    remove_user(keys, "admin")
    assert [user.name for user in users(keys)] == ["carl"]
    with pytest.raises(RefusedError, match="last administrator"):
        remove_user(keys, "carl")
    with pytest.raises(NotFoundError):
        remove_user(keys, "nobody")


def test_reset_password_changes_it_and_nothing_else(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    add_user(keys, "bert", Role.OPERATOR)
    before = users(keys)
    password = reset_password(keys, "admin")
    admin, bert = users(keys)
    assert (admin.name, admin.role, bert) == ("admin", Role.ADMIN, before[1])
    assert crypt(password, admin.password_hash) == admin.password_hash != before[0].password_hash
    with pytest.raises(NotFoundError):
        reset_password(keys, "nobody")


@pytest.mark.parametrize("name", ["", "Admin", "a b", "x\nuser y", "ä", "a" * 33, "1a", "a,b"])
def test_add_user_with_no_user_name_is_refused(folders: tuple[Path, Path], name: str) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    before = snapshot(keys)
    with pytest.raises(RefusedError):
        add_user(keys, name, Role.READER)
    assert snapshot(keys) == before


def test_add_user_that_exists_is_refused(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    with pytest.raises(RefusedError, match="exists"):
        add_user(keys, "admin", Role.READER)


def test_users_cfg_changed_by_hand_is_not_overwritten(folders: tuple[Path, Path]) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    changed = (keys / USERS).read_text() + "    user eve insecure-password x\n"
    (keys / USERS).write_text(changed)
    with pytest.raises(KeysError, match="not ours"):
        add_user(keys, "bert", Role.READER)
    assert (keys / USERS).read_text() == changed


def test_add_user_before_the_first_start_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(KeysError, match="not complete"):
        add_user(folders[0], "bert", Role.READER)


FINGERPRINT = ":".join(["ab"] * 32)


def test_certificate_is_revoked_in_the_edges_copy_as_well_and_allowed_again(
    folders: tuple[Path, Path],
) -> None:
    keys, state = folders
    share = share_of(keys, "edge")
    share.mkdir(exist_ok=True)
    initialise(keys, state, PLAIN, {})
    assert revoked_certificates(keys) == []
    for _ in range(2):
        revoke_certificate(keys, FINGERPRINT)
    for folder in (keys, share):
        assert (folder / REVOKED).read_text() == "AB" * 32 + "\n"
    with pytest.raises(NotFoundError):
        allow_certificate(keys, "0" * 64)
    allow_certificate(keys, "AB" * 32)
    assert (share / REVOKED).read_text() == ""
    with pytest.raises(NotFoundError):
        allow_certificate(keys, FINGERPRINT)


@pytest.mark.parametrize("text", ["", "ct1.example.org", "ab" * 31, "\n"])
def test_what_is_no_fingerprint_is_not_revoked(folders: tuple[Path, Path], text: str) -> None:
    keys, state = folders
    initialise(keys, state, PLAIN, {})
    with pytest.raises(RefusedError):
        revoke_certificate(keys, text)
    assert not (keys / REVOKED).exists()
