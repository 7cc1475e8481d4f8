"""The keys, made at the first start: secrets between services, TLS certificate, users, the recipient.

Rule 1: what can be lost is written first. `first-start.json` holds the administrator's password and the
vault's identity before anything is derived from them, so that after a kill at any moment a second run
completes the same set.
Rule 2: `ready` is written last; the other services wait for it.
Rule 3: no secret is put on a command line, into a log or into an error.
Rule 4: the whole set lies on the agent's own volume. Each other service gets copies of the files in SHARES
and SHARES_LATER on a volume of its own, and no other file. A set that an earlier version made is shared out
at the next start.
"""

import base64
import fcntl
import ipaddress
import json
import os
import re
import secrets
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from understudy.adapters.encryption import new_key_pair
from understudy.adapters.in_force import KEPT
from understudy.adapters.writer import WriterError, make_writer
from understudy.config import Understudy
from understudy.core.errors import NotFoundError, RefusedError
from understudy.core.gate import certificate_of
from understudy.core.roles import ROLES_OF_PEOPLE, Role
from understudy.system.files import sync_folder, write_durably

_ADMINISTRATOR = "admin"
_CERTIFICATE_DAYS = 825
"""The longest that common clients accept of a certificate."""
_ROUNDS = 1000
"""Of SHA-512-crypt, the fewest it allows. The edge computes the hash on its own thread at every sign-in, so
each round delays everybody; and a password of 144 random bits cannot be guessed however cheap the guess."""
_PASSWORD_BYTES = 18
_SALT_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_HASH = re.compile(r"\$6\$rounds=[0-9]+\$[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}")
_USER = re.compile(r" *user (?P<name>\S+) password (?P<hash>\S+)")
_GROUP = re.compile(r" *group (?P<role>\S+)(?: users (?P<names>\S+))?")
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9*]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*")

READY, RECIPIENT, USERS, CERTIFICATE = "ready", "vault-recipient", "users.cfg", "tls/https.pem"
SERVICES = ("service/edge", "service/agent")
"""The passwords of the accounts that Orthanc knows."""
SIGNING = "service/signing"
"""The key, in Base64, with which the edge signs who a person is, and by which the agent knows the edge."""
REVOKED = "revoked-certificates"
"""Fingerprints of devices' certificates that count no more, one a line; the edge reads it twice a second."""
FIRST_START = "first-start.json"
SHARES: Mapping[str, tuple[str, ...]] = {
    "edge": ("service/edge", SIGNING, CERTIFICATE, USERS, READY),
    "orthanc": (*SERVICES, READY),
}
"""The files that each other service gets, in the order in which they are written."""
SHARES_LATER: Mapping[str, tuple[str, ...]] = {"edge": (KEPT, REVOKED), "orthanc": (KEPT,)}
"""Likewise, once there are such files."""
IN_FORCE = "the edge knows it within a second, and needs no restart"


class KeysError(Exception):
    """The keys cannot be made or read."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class FirstStart:
    """What is shown to the operator once and then destroyed; empty where there is nothing to show."""

    user: str = ""
    password: str = ""
    tls_fingerprint_sha256: str = ""
    vault_identity: str = ""
    vault_recipient: str = ""
    vault_writer: str = ""

    def __repr__(self) -> str:
        return "FirstStart(redacted)"


@dataclass(frozen=True, slots=True)
class User:
    """One person in users.cfg."""

    name: str
    role: Role
    password_hash: str

    def __repr__(self) -> str:
        return f"User({self.name!r}, {self.role.word})"


def share_of(keys: Path, service: str) -> Path:
    """Return where the agent sees the volume that stands for this folder in another service."""
    return keys.with_name(f"{keys.name}-of-{service}")


def initialise(
    keys: Path, state: Path, configuration: Understudy, environment: Mapping[str, str] = os.environ
) -> None:
    """Make the missing keys and share them out; a run after a complete one changes nothing.

    A vault that is configured later without recipients gets an identity then, shown by `first-start` too.
    """
    with _locked(keys):
        _make_keys(keys, state, configuration, environment)
        _share_out(keys)


def show_first_start(keys: Path, state: Path, show: Callable[[FirstStart], None]) -> bool:
    """Give the first start's secrets to `show`, destroy the file after it, and say whether there were any.

    `show` has to raise where it could not write everything out: then the file stays and can be shown again.
    """
    with _locked(keys):
        path = state / FIRST_START
        if not (keys / READY).exists():
            raise KeysError(
                "the first start is not complete yet", "wait until the services are healthy, then try again"
            )
        if not path.exists():
            return False
        show(_read_first_start(path))
        _destroy(path)
        return True


def users(keys: Path) -> list[User]:
    """Return everybody in users.cfg."""
    try:
        text = (keys / USERS).read_text(encoding="ascii")
    except FileNotFoundError:
        raise KeysError("there are no users yet", "run `understudy init` first") from None
    return _parse_users(text)


def add_user(keys: Path, name: str, role: Role) -> str:
    """Add a person and return the generated password, which is kept nowhere.

    The edge reads the list by itself, twice a second (edge/sign_in.lua).
    """
    if _NAME.fullmatch(name) is None:
        raise RefusedError(
            f"{name!r} is no user name", "1 to 32 of a-z, 0-9, hyphen and underscore, beginning with a letter"
        )
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    with _locked(keys):
        present = _users_when_ready(keys)
        if any(user.name == name for user in present):
            hint = (
                f"for a new password: `understudy user reset {name}`; for another role: "
                f"`understudy user remove {name}`, then add it again"
            )
            raise RefusedError(f"the user {name} exists", hint)
        _write_users(keys, [*present, User(name, role, _hash(password))])
    return password


def reset_password(keys: Path, name: str) -> str:
    """Give a person another generated password and return it; the role stays."""
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    with _locked(keys):
        present = _users_when_ready(keys)
        _refuse_unknown(name, present)
        changed = [
            replace(user, password_hash=_hash(password)) if user.name == name else user for user in present
        ]
        _write_users(keys, changed)
    return password


def remove_user(keys: Path, name: str) -> None:
    """Remove a person; the last administrator stays."""
    with _locked(keys):
        present = _users_when_ready(keys)
        _refuse_unknown(name, present)
        kept = [user for user in present if user.name != name]
        if not any(user.role is Role.ADMIN for user in kept):
            raise RefusedError(f"{name} is the last administrator", "add another administrator first")
        _write_users(keys, kept)


def revoked_certificates(keys: Path) -> list[str]:
    """Return the SHA-256 fingerprints of the devices' certificates that are revoked, in hexadecimal."""
    path = keys / REVOKED
    return path.read_text(encoding="ascii").split() if path.exists() else []


def revoke_certificate(keys: Path, fingerprint: str) -> None:
    """Let no new association in that shows this certificate, whatever else allows it."""
    with _locked(keys):
        present = revoked_certificates(keys)
        _write_revoked(keys, sorted({*present, _fingerprint_of(fingerprint)}))


def allow_certificate(keys: Path, fingerprint: str) -> None:
    """Take a revocation back."""
    with _locked(keys):
        present, named = revoked_certificates(keys), _fingerprint_of(fingerprint)
        if named not in present:
            raise NotFoundError(
                "this certificate is not revoked", "`understudy certificate list` shows which are"
            )
        _write_revoked(keys, [one for one in present if one != named])


def _fingerprint_of(text: str) -> str:
    try:
        named = certificate_of(text)
    except ValueError:
        named = ""
    if not named.startswith("F"):
        hint = "openssl x509 -in FILE -noout -fingerprint -sha256"
        raise RefusedError(f"{text!r} is no SHA-256 fingerprint of a certificate", hint)
    return named[1:]


def _write_revoked(keys: Path, fingerprints: Sequence[str]) -> None:
    _write(keys / REVOKED, "".join(f"{one}\n" for one in fingerprints))
    _share_later(keys)


def keep_configuration(keys: Path, content: str) -> None:
    """Keep a configuration that is in order, durably, and give the other services copies."""
    with _locked(keys):
        path = keys / KEPT
        if not path.exists() or path.read_text(encoding="ascii") != content:
            _write(path, content)
        _share_later(keys)


def _refuse_unknown(name: str, present: Iterable[User]) -> None:
    if all(user.name != name for user in present):
        raise NotFoundError(f"there is no user {name}", "`understudy user list` shows who there is")


def signing_key(keys: Path) -> bytes:
    """Return the key with which the edge signs."""
    try:
        return base64.b64decode((keys / SIGNING).read_bytes(), validate=True)
    except (OSError, ValueError):
        raise KeysError("the key between edge and agent cannot be read", "run `understudy init`") from None


def vault_recipient(keys: Path) -> str:
    """Return the recipient that was made at the first start, for vaults that are configured without one."""
    try:
        return (keys / RECIPIENT).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise KeysError("no recipient was made for the vaults", "run `understudy init`") from None


def _make_keys(keys: Path, state: Path, configuration: Understudy, environment: Mapping[str, str]) -> None:
    try:
        writer = make_writer(keys, state)
    except WriterError as error:
        raise KeysError(str(error), error.hint) from error
    ready = (keys / READY).exists()
    needs_identity = _needs_identity(configuration) and not (keys / RECIPIENT).exists()
    # Outside of the set that `ready` tells of: an earlier version made none.
    _write_once(keys / SIGNING, lambda: base64.b64encode(secrets.token_bytes(32)).decode("ascii"))
    if ready and not needs_identity:
        return
    first_start_path = state / FIRST_START
    first_start = _read_first_start(first_start_path) if first_start_path.exists() else FirstStart()
    if not ready:
        for service in SERVICES:
            _write_once(keys / service, lambda: secrets.token_urlsafe(32))
        _write_once(keys / CERTIFICATE, lambda: _self_signed(configuration.site, environment))
        first_start = FirstStart(
            _ADMINISTRATOR,
            first_start.password or secrets.token_urlsafe(_PASSWORD_BYTES),
            _fingerprint(keys / CERTIFICATE),
            first_start.vault_identity,
            first_start.vault_recipient,
            writer,
        )
    if needs_identity and not first_start.vault_identity:
        pair = new_key_pair()
        first_start = FirstStart(
            first_start.user,
            first_start.password,
            first_start.tls_fingerprint_sha256,
            pair.identity,
            pair.recipient,
            writer,
        )
    _write(first_start_path, json.dumps(asdict(first_start), indent=1), mode=0o600)
    if needs_identity:
        _write(keys / RECIPIENT, first_start.vault_recipient + "\n")
    if not ready:
        _write(keys / USERS, _render_users([User(_ADMINISTRATOR, Role.ADMIN, _hash(first_start.password))]))
        _write(keys / READY, "")


def _share_out(keys: Path) -> None:
    """Give every service its copies."""
    _share_later(keys)
    for service, names in SHARES.items():
        _share(keys, service, names)


def _share_later(keys: Path) -> None:
    """Give every service its copies of the files that no first start makes."""
    for service, names in SHARES_LATER.items():
        _share(keys, service, [name for name in names if (keys / name).exists()])


def _share(keys: Path, service: str, names: Iterable[str]) -> None:
    """Give a service its copies of these files.

    With the compose file of an earlier version it has no volume of its own here: it sees them all.
    """
    share = share_of(keys, service)
    if not os.access(share, os.W_OK):
        return
    for name in names:
        content = (keys / name).read_text(encoding="ascii")
        if not (share / name).exists() or (share / name).read_text(encoding="ascii") != content:
            _write(share / name, content)


def _write_users(keys: Path, people: Sequence[User]) -> None:
    _write(keys / USERS, _render_users(people))
    _share_out(keys)


def _needs_identity(configuration: Understudy) -> bool:
    return not configuration.vaults or any(not vault.recipients for vault in configuration.vaults)


def _read_first_start(path: Path) -> FirstStart:
    try:
        return FirstStart(**json.loads(path.read_text(encoding="ascii")))
    except (OSError, ValueError, TypeError):
        # The file was written whole or not at all; its text must not reach an error message.
        raise KeysError(
            f"{path} cannot be read", "restore the state volume, or empty state and keys to start over"
        ) from None


def _destroy(path: Path) -> None:
    """Overwrite, unlink and sync. Flash may keep old blocks all the same: encrypt the disk."""
    with path.open("r+b") as file:
        file.write(b"\0" * os.fstat(file.fileno()).st_size)
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    sync_folder(path.parent)


def _self_signed(site: str, environment: Mapping[str, str]) -> str:
    """Return certificate and key as HAProxy reads them: one PEM file."""
    names = [
        site,
        "localhost",
        "127.0.0.1",
        *re.split(r"[,\s]+", environment.get("UNDERSTUDY_HOSTNAMES", "")),
    ]
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Understudy {site}")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A day back: clients' clocks differ.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_CERTIFICATE_DAYS - 1))
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (certificate.public_bytes(serialization.Encoding.PEM) + private).decode("ascii")


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    general: list[x509.GeneralName] = []
    for name in dict.fromkeys(filter(None, names)):
        try:
            general.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            if _HOST_NAME.fullmatch(name) is None:
                raise KeysError(
                    f"{name!r} in UNDERSTUDY_HOSTNAMES is neither a host name nor an address",
                    "give host names and addresses, separated by commas",
                ) from None
            general.append(x509.DNSName(name))
    return general


def _fingerprint(path: Path) -> str:
    digest = x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(hashes.SHA256())
    return digest.hex(":").upper()


def _hash(password: str) -> str:
    """Return SHA-512-crypt of the password by openssl: Python has dropped its own crypt."""
    salt = "".join(secrets.choice(_SALT_ALPHABET) for _ in range(16))
    command = ["openssl", "passwd", "-6", "-salt", f"rounds={_ROUNDS}${salt}", "-stdin"]
    try:
        done = subprocess.run(
            command, input=password + "\n", capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise KeysError(f"openssl passwd failed: {type(error).__name__}", "install openssl") from error
    hashed = done.stdout.strip()
    if _HASH.fullmatch(hashed) is None:
        raise KeysError("openssl passwd gave no SHA-512-crypt hash", "install OpenSSL 3")
    return hashed


def _users_when_ready(keys: Path) -> list[User]:
    if not (keys / READY).exists():
        raise KeysError("the first start is not complete yet", "run `understudy init` first")
    return users(keys)


def _render_users(people: Sequence[User]) -> str:
    lines = ["userlist understudy"]
    for role in sorted(Role, reverse=True):
        names = ",".join(user.name for user in people if user.role is role)
        lines.append(f"    group {role.word} users {names}" if names else f"    group {role.word}")
    lines += [f"    user {user.name} password {user.password_hash}" for user in people]
    return "\n".join(lines) + "\n"


def _parse_users(text: str) -> list[User]:
    roles: dict[str, Role] = {}
    people: list[User] = []
    for line in text.splitlines()[1:]:
        if (group := _GROUP.fullmatch(line)) and group["role"] in ROLES_OF_PEOPLE:
            roles |= dict.fromkeys((group["names"] or "").split(","), ROLES_OF_PEOPLE[group["role"]])
        elif (user := _USER.fullmatch(line)) and user["name"] in roles:
            people.append(User(user["name"], roles[user["name"]], user["hash"]))
        else:
            raise KeysError("users.cfg has a line that is not ours", "change users by `understudy user` only")
    return people


@contextmanager
def _locked(keys: Path) -> Iterator[None]:
    """Let one process at a time change the keys."""
    descriptor = os.open(keys, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_once(path: Path, content: Callable[[], str]) -> None:
    if not path.exists():
        _write(path, content())


def _write(path: Path, content: str, mode: int = 0o640) -> None:
    """Replace the file durably, so that a kill leaves the old content or the new."""
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o750)
        sync_folder(path.parent.parent)
    write_durably(path, content.encode("ascii"), mode)
