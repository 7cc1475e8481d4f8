"""TLS as a client, as DICOM PS3.15 B.12 requires: at least version 1.2, and our certificate if configured."""

import ssl
from dataclasses import dataclass
from pathlib import Path


class TlsSettingsError(Exception):
    """Our own certificate, key or list of authorities cannot be used; raised when a connection needs it."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The trusted authorities and our own certificate; each connection reads the files again."""

    authorities: Path
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""
    """The name in the peer's certificate, if it is not the host name."""

    def context(self) -> ssl.SSLContext:
        """Return the SSL context for a connection, or raise TlsSettingsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            file = self.authorities
            context.load_verify_locations(file)
            if self.certificate is not None:
                file = self.certificate
                # Without this, OpenSSL would ask for a key's passphrase on the terminal.
                context.load_cert_chain(file, self.key, password=lambda: b"")
        except OSError as error:
            # An SSLError, for a file that OpenSSL cannot use, is an OSError too.
            raise TlsSettingsError(f"{file.name} of ours cannot be used: {error.strerror}") from error
        return context


def tls_words(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason for an error, without its source lines."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    reason = error.reason or str(error)
    if reason in _PLAIN:
        return "it does not use TLS"
    return reason.replace("_", " ").lower()


_PLAIN = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")
"""OpenSSL's reasons if a peer answers in plain text, or closes the connection."""
