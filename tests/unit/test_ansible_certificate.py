"""The certificate of the clinics' authority is renewed when it is due, and never before."""

import subprocess
from pathlib import Path

import pytest
from understudy_host import certificate
from understudy_host.places import Places, RefusedError

NAMES = ("standby.example.org", "192.0.2.20", "2001:db8::20")
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True)


def sign(folder: Path, name: str, by: str, extensions: str) -> None:
    """Sign NAME.csr with the key of an authority, for 30 days."""
    (folder / "extensions").write_text(extensions, encoding="ascii")
    authority = ("-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-days", "30", "-copy_extensions", "copyall")
    request = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "extensions")
    openssl(folder, "x509", "-req", *request, *authority)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> tuple[Places, str]:
    """A host with a certificate by an authority that another one signed; and that authority in PEM."""
    folder = tmp_path_factory.mktemp("host")
    places = Places(data=folder, project=folder)
    tls = places.volume("keys") / "tls"
    tls.mkdir(parents=True)
    openssl(folder, "req", "-x509", *KEY, "-keyout", "root.key", "-out", "root.pem", "-subj", "/CN=root")
    openssl(
        folder, "req", "-new", *KEY, "-keyout", "clinics.key", "-out", "clinics.csr", "-subj", "/CN=clinics"
    )
    sign(folder, "clinics", "root", "basicConstraints=critical,CA:TRUE\n")
    (folder / "host.csr").write_text(certificate.request(places, NAMES) + "\n", encoding="ascii")
    sign(folder, "host", "clinics", "basicConstraints=critical,CA:FALSE\n")
    authority = (folder / "clinics.pem").read_text(encoding="ascii")
    certificate.install(places, (folder / "host.pem").read_text(encoding="ascii") + authority)
    return places, authority


@pytest.mark.parametrize("names", [NAMES, ("2001:DB8:0:0::20",), ("192.0.2.20",)])
def test_certificate_that_names_all_holds_however_an_address_is_written(
    host: tuple[Places, str], names: tuple[str, ...]
) -> None:
    places, authority = host
    assert certificate.holds(places, authority, days=20, names=names).endswith("https.pem holds")


@pytest.mark.parametrize("name", ["2001:db8::21", "192.0.2.21", "other.example.org"])
def test_certificate_that_does_not_name_one_is_renewed(host: tuple[Places, str], name: str) -> None:
    places, authority = host
    with pytest.raises(RefusedError, match=f"does not name {name}$"):
        certificate.holds(places, authority, days=20, names=[*NAMES, name])


def test_certificate_that_ends_soon_is_renewed(host: tuple[Places, str]) -> None:
    places, authority = host
    with pytest.raises(RefusedError, match="ends soon"):
        certificate.holds(places, authority, days=40, names=NAMES)
