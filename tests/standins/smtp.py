"""An SMTP server on this machine: TLS with its own certificate, logins, and a memory of what came."""

import base64
import datetime
import ipaddress
import socketserver
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from threading import Thread
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass
class SMTPStandIn:
    """`logins` are the pairs of user and password that it lets in; others are refused."""

    port: int = 0
    certificate: Path = Path()
    logins: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    received: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    sent_in_clear: list[str] = field(default_factory=list)


@contextmanager
def smtp_server(
    folder: Path, security: Literal["ssl", "starttls", "none"]
) -> Iterator[SMTPStandIn]:
    smtp = SMTPStandIn(certificate=folder / "smtp.pem")
    _write_certificate(smtp.certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(smtp.certificate)

    class Session(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.connection = self.request
            self.encrypted = False
            if security == "ssl":
                try:
                    self._encrypt()
                except ssl.SSLError:  # the client doesn't know the certificate
                    return
            self._open()
            self._say("220 standin ESMTP")
            sender_to: list[str] = []
            while line := self.file.readline():
                text = line.decode().strip()
                if not self.encrypted:
                    smtp.sent_in_clear.append(text)
                command, _, rest = text.partition(" ")
                match command.upper():
                    case "EHLO":
                        self._say("250-standin")
                        if security == "starttls" and not self.encrypted:
                            self._say("250-STARTTLS")
                        self._say("250 AUTH PLAIN")
                    case "STARTTLS":
                        self._say("220 go ahead")
                        try:
                            self._encrypt()
                        except ssl.SSLError:
                            return
                        self._open()
                    case "AUTH":
                        _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
                        if smtp.logins.get(user) == password:
                            self._say("235 welcome")
                        else:
                            self._say(f"535 no login for {user} with {password}")
                    case "RCPT":
                        address = rest.partition("<")[2].partition(">")[0]
                        if address in smtp.refused:
                            self._say("550 no such mailbox")
                        else:
                            sender_to.append(address)
                            self._say("250 ok")
                    case "DATA":
                        self._say("354 go on")
                        lines = []
                        while (data := self.file.readline()) != b".\r\n":
                            lines.append(data.removeprefix(b"."))
                        smtp.received.append(
                            message_from_bytes(b"".join(lines), policy=default)  # type: ignore[arg-type]
                        )
                        smtp.recipients.append(sender_to)
                        sender_to = []
                        self._say("250 taken")
                    case "QUIT":
                        self._say("221 bye")
                        return
                    case _:
                        self._say("250 ok")

        def _encrypt(self) -> None:
            self.connection = tls.wrap_socket(self.connection, server_side=True)
            self.encrypted = True

        def _open(self) -> None:
            self.file = self.connection.makefile("rb")

        def _say(self, line: str) -> None:
            self.connection.sendall(f"{line}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session) as server:
        server.daemon_threads = True
        smtp.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield smtp
        finally:
            server.shutdown()
            thread.join()


def _write_certificate(path: Path) -> None:
    """A certificate for 127.0.0.1 that nobody signed but itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
