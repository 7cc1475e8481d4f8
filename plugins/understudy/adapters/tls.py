"""TLS as a client, as DICOM PS3.15 B.12 asks for it: 1.2 at least, and our certificate where we have one."""

import ssl
from dataclasses import dataclass
from pathlib import Path


class TlsSettingsError(Exception):
    """Our own certificate, key or list of authorities cannot be used; told when it is needed."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Whom we trust and who we are; the files are read for each connection, so that renewed ones count."""

    authorities: Path
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""
    """The name in the peer's certificate, where it is not that of its host."""

    def context(self) -> ssl.SSLContext:
        """Return what a connection needs, or raise TlsSettingsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            file = self.authorities
            context.load_verify_locations(file)
            if self.certificate is not None:
                file = self.certificate
                # A key with a passphrase would ask for it on a terminal.
                context.load_cert_chain(file, self.key, password=lambda: b"")
        except OSError as error:
            # What OpenSSL cannot make use of is an OSError too.
            raise TlsSettingsError(f"{file.name} of ours cannot be used: {error.strerror}") from error
        return context


def tls_words(error: ssl.SSLError) -> str:
    """Return what OpenSSL found wrong, in its own words without source lines."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {error.verify_message}"
    reason = error.reason or str(error)
    if reason in _PLAIN:
        return "it does not speak TLS"
    return reason.replace("_", " ").lower()


_PLAIN = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")
"""What OpenSSL says of a peer that answers in plain text, or hangs up."""
