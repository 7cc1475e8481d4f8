"""Makes the keys at the first start: secrets between services, TLS certificate, users, the vaults' recipient.

Rule 1: secrets that cannot be derived again are written first. `first-start.json` has the administrator's
password and the vault's identity before anything is derived from them. So after a kill at any moment, a
second run completes the same set.
Rule 2: `ready` is written last; the other services wait for it.
Rule 3: no secret is put on a command line, into a log or into an error.
Rule 4: the whole set is on the agent's own volume. Each other service has its own volume, with copies of only
the files in SHARES and SHARES_LATER. If an earlier version made the set, the next start makes these copies.
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
"""The longest validity that common clients accept."""
_ROUNDS = 1000
"""Rounds of SHA-512-crypt, the fewest it allows. The edge computes the hash on its own thread at every
sign-in, so each round delays all callers. A password of 144 random bits cannot be guessed, however fast the
hash is."""
_PASSWORD_BYTES = 18
_SALT_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_HASH = re.compile(r"\$6\$rounds=[0-9]+\$[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}")
_USER = re.compile(r" *user (?P<name>\S+) password (?P<hash>\S+)")
_GROUP = re.compile(r" *group (?P<role>\S+)(?: users (?P<names>\S+))?")
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9*]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*")

READY, RECIPIENT, USERS, CERTIFICATE = "ready", "vault-recipient", "users.cfg", "tls/https.pem"
SERVICES = ("service/edge", "service/agent")
"""Files with the passwords of Orthanc's accounts."""
SIGNING = "service/signing"
"""The key, in Base64, with which the edge signs a person's identity and the agent checks it."""
REVOKED = "revoked-certificates"
"""Fingerprints of devices' revoked certificates, one per line; the edge reads the file twice a second."""
FIRST_START = "first-start.json"
SHARES: Mapping[str, tuple[str, ...]] = {
    "edge": ("service/edge", SIGNING, CERTIFICATE, USERS, READY),
    "orthanc": (*SERVICES, READY),
}
"""The files that each other service gets copies of, in the order of writing."""
SHARES_LATER: Mapping[str, tuple[str, ...]] = {"edge": (KEPT, REVOKED), "orthanc": (KEPT,)}
"""The same for files that do not exist from the first start."""
IN_FORCE = "the edge uses it within a second, without a restart"


class KeysError(Exception):
    """The keys cannot be made or read."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class FirstStart:
    """The secrets that are shown to the operator once and then destroyed; empty texts are not shown."""

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
    """Return where the agent has mounted the volume that another service sees as its folder of keys."""
    return keys.with_name(f"{keys.name}-of-{service}")


def initialise(
    keys: Path, state: Path, configuration: Understudy, environment: Mapping[str, str] = os.environ
) -> None:
    """Make the missing keys and give the other services copies; a run after a complete one changes nothing.

    If a vault without recipients is configured later, an identity is made then, and `first-start` shows it.
    """
    with _locked(keys):
        _make_keys(keys, state, configuration, environment)
        _share_out(keys)


def show_first_start(keys: Path, state: Path, show: Callable[[FirstStart], None]) -> bool:
    """Give the first start's secrets to `show`, then destroy the file; return whether there were any.

    `show` has to raise if it could not write everything out; the file then stays and can be shown again.
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
    """Return all users in users.cfg."""
    try:
        text = (keys / USERS).read_text(encoding="ascii")
    except FileNotFoundError:
        raise KeysError("there are no users yet", "run `understudy init` first") from None
    return _parse_users(text)


def add_user(keys: Path, name: str, role: Role) -> str:
    """Add a person and return the generated password, which is not stored anywhere.

    The edge reads users.cfg again twice a second (edge/sign_in.lua).
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
    """Generate a new password for a person and return it; the role stays."""
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
    """Remove a person; refuse to remove the last administrator."""
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
    """Refuse new associations with this certificate, whatever else allows them."""
    with _locked(keys):
        present = revoked_certificates(keys)
        _write_revoked(keys, sorted({*present, _fingerprint_of(fingerprint)}))


def allow_certificate(keys: Path, fingerprint: str) -> None:
    """Undo the revocation of a certificate."""
    with _locked(keys):
        present, named = revoked_certificates(keys), _fingerprint_of(fingerprint)
        if named not in present:
            raise NotFoundError(
                "this certificate is not revoked", "`understudy certificate list` shows the revoked ones"
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
    """Store a valid configuration durably, and give the other services copies."""
    with _locked(keys):
        path = keys / KEPT
        if not path.exists() or path.read_text(encoding="ascii") != content:
            _write(path, content)
        _share_later(keys)


def _refuse_unknown(name: str, present: Iterable[User]) -> None:
    if all(user.name != name for user in present):
        raise NotFoundError(f"there is no user {name}", "`understudy user list` shows all users")


def signing_key(keys: Path) -> bytes:
    """Return the key with which the edge signs a person's identity."""
    try:
        return base64.b64decode((keys / SIGNING).read_bytes(), validate=True)
    except (OSError, ValueError):
        raise KeysError("the key between edge and agent cannot be read", "run `understudy init`") from None


def vault_recipient(keys: Path) -> str:
    """Return the recipient made at the first start, for vaults that are configured without recipients."""
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
    # Made even if `ready` exists, because an earlier version had no such key.
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
    """Give every service its copies of the files in SHARES_LATER that exist."""
    for service, names in SHARES_LATER.items():
        _share(keys, service, [name for name in names if (keys / name).exists()])


def _share(keys: Path, service: str, names: Iterable[str]) -> None:
    """Give a service its copies of these files.

    With the compose file of an earlier version, the service has no volume of its own and sees all files.
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
        # The file is always written whole, so it was damaged; its text must not reach an error message.
        raise KeysError(
            f"{path} cannot be read",
            "restore the volume `state`, or empty the volumes `state` and `keys` to start again",
        ) from None


def _destroy(path: Path) -> None:
    """Overwrite, unlink and sync. A flash disk may keep old blocks in spite of this, so encrypt the disk."""
    with path.open("r+b") as file:
        file.write(b"\0" * os.fstat(file.fileno()).st_size)
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    sync_folder(path.parent)


def _self_signed(site: str, environment: Mapping[str, str]) -> str:
    """Return certificate and key in one PEM text, as HAProxy reads them."""
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
        # Valid from a day ago, because clients' clocks differ.
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
    """Return the SHA-512-crypt hash of the password. Uses openssl, because Python has dropped its `crypt`."""
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
    """Lock the folder, so that one process at a time changes the keys."""
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
    """Replace the file durably, so that a kill leaves either the old or the new content."""
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o750)
        sync_folder(path.parent.parent)
    write_durably(path, content.encode("ascii"), mode)
