"""How an alert leaves Dagster: the notifiers that a defs.yaml may name.

Secrets are read from the environment when an alert is sent, and never before.
"""

import os
import smtplib
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from http.client import HTTPException
from typing import Literal, Protocol

from sf_sagemaker.components.alert import Alert
from sf_sagemaker.errors import SfSagemakerError

# Seconds for one answer. Dagster gives a sensor's tick, which sends up to five alerts, 60 s.
_TIMEOUT = 10

Security = Literal["ssl", "starttls", "none"]


class NotificationFailed(SfSagemakerError):
    """An alert that could not be handed on; says why. Its text may hold secrets of the service."""


class Notifier(Protocol):
    """Whoever else is told of a failed run, beside the sensor's log."""

    def send(self, alert: Alert) -> None:
        """Hands the alert on. Raises NotificationFailed."""
        ...


@dataclass(frozen=True)
class SlackNotifier:
    """A message in a Slack channel, through Dagster's Slack resource (the extra `slack`)."""

    channel: str
    token_variable: str
    api_url: str

    def send(self, alert: Alert) -> None:
        """One message of plain text, in which nothing is a link to people or a mark-up."""
        from dagster_slack import SlackResource
        from slack_sdk.errors import SlackClientError

        client = SlackResource(token=_secret(self.token_variable)).get_client()
        client.base_url = self.api_url
        client.timeout = _TIMEOUT
        text = alert.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        try:
            client.chat_postMessage(
                channel=self.channel, text=text, mrkdwn=False, unfurl_links=False
            )
        except (SlackClientError, HTTPException, OSError) as error:
            raise NotificationFailed(f"Slack, channel {self.channel}: {error}") from None


@dataclass(frozen=True)
class EmailNotifier:
    """An e-mail over SMTP, with the logins and ports of Dagster's own e-mail sensor.

    That sensor wants the password when the code loads, and fails on any text outside ASCII.
    """

    sender: str
    recipients: tuple[str, ...]
    host: str
    port: int
    security: Security
    user: str
    password_variable: str | None

    def send(self, alert: Alert) -> None:
        """One message of plain text to all recipients."""
        message = EmailMessage()
        message["From"] = self.sender
        message["To"] = ", ".join(self.recipients)
        message["Subject"] = alert.subject
        message.set_content(alert.text)
        password = _secret(self.password_variable) if self.password_variable else None
        try:
            with self._connect() as server:
                if password is not None:
                    server.login(self.user, password)
                refused = server.send_message(message)
        except (smtplib.SMTPException, OSError) as error:
            raise NotificationFailed(f"SMTP server {self.host}:{self.port}: {error}") from None
        if refused:
            raise NotificationFailed(
                f"SMTP server {self.host}:{self.port} took the e-mail for the other recipients and "
                f"refused {', '.join(refused)}"
            )

    def _connect(self) -> smtplib.SMTP:
        tls = ssl.create_default_context()
        if self.security == "ssl":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=_TIMEOUT, context=tls)
        server = smtplib.SMTP(self.host, self.port, timeout=_TIMEOUT)
        if self.security == "starttls":
            try:
                server.starttls(context=tls)
            except (smtplib.SMTPException, OSError):
                server.close()
                raise
        return server


def _secret(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise NotificationFailed(
            f"the environment variable {variable} is not set: it must hold the secret in the "
            "process that serves the code location"
        )
    return value
