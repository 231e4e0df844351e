"""Alerts about failed runs: a sensor, and who is told beside its log."""

import importlib.util
import os
import re
from collections.abc import Iterator
from typing import Literal

import dagster as dg
from pydantic import Field, field_validator

from sf_sagemaker.components.alert import Alert, assets_of, failed_run
from sf_sagemaker.components.component import Attributes, Component, within
from sf_sagemaker.components.errors import InvalidAttribute, invalid_attribute
from sf_sagemaker.components.notifiers import (
    EmailNotifier,
    NotificationFailed,
    Notifier,
    Security,
    SlackNotifier,
)
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.redaction import redact

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ADDRESS = re.compile(r"[^@\s,<>]+@[^@\s,<>]+")
_URL = re.compile(r"https?://[^\s@]+")
_PORTS = {"ssl": 465, "starttls": 587, "none": 25}


class AlertNotSent(SfSagemakerError):
    """A failed run of which the notifier could not be told; carries the alert and the reason."""


class Slack(Attributes):
    """Where an alert goes in Slack."""

    channel: str = Field(
        min_length=1,
        description="Name or id of a channel that the bot has been invited to.",
        examples=["#models", "C0123456789"],
    )
    token_variable: str = Field(
        default="SLACK_BOT_TOKEN",
        description="Environment variable with the bot's token, which needs the scope chat:write. "
        "Read when an alert is sent.",
    )
    api_url: str = Field(
        default="https://slack.com/api/",
        description="Slack's Web API; GovSlack has another.",
        examples=["https://slack-gov.com/api/"],
    )

    @field_validator("api_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return _checked_url(value)


class Email(Attributes):
    """Where an alert goes by e-mail, and over which server."""

    sender: str = Field(
        description="Address that the e-mail is from.", examples=["dagster@example.com"]
    )
    recipients: list[str] = Field(
        min_length=1, description="Addresses that it goes to.", examples=[["models@example.com"]]
    )
    host: str = Field(min_length=1, description="SMTP server.", examples=["smtp.example.com"])
    port: int | None = Field(
        default=None, description="465 for ssl, 587 for starttls and 25 for none, if left out."
    )
    security: Security = Field(
        default="starttls",
        description="ssl and starttls encrypt and check the server's certificate; none is for a "
        "relay on the same machine, without a login.",
    )
    user: str | None = Field(default=None, description="Login; the sender if left out.")
    password_variable: str | None = Field(
        default=None,
        description="Environment variable with the login's password; no login without it. Read "
        "when an alert is sent.",
        examples=["SMTP_PASSWORD"],
    )

    _bounds = within("port", least=1, most=65535)

    @field_validator("sender")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if not _ADDRESS.fullmatch(value):
            raise ValueError("not an e-mail address, as models@example.com")
        return value

    @field_validator("recipients")
    @classmethod
    def _are_addresses(cls, values: list[str]) -> list[str]:
        for value in values:
            if not _ADDRESS.fullmatch(value):
                raise ValueError(f"{value!r} is not an e-mail address, as models@example.com")
        return values


class RunFailureAlerts(Component):
    """A sensor that reports each failed run: in its log, and to Slack or by e-mail if asked to.

    A run is reported if it is of one of the `jobs` or was to build one of the `assets`; without
    either, every run of the code location is. So it is when one of `jobs` doesn't exist or `assets`
    selects nothing: a slip of the pen must not silence the alerts.
    """

    name: str = Field(
        default="run_failure_alerts",
        pattern=r"^[a-z][a-z0-9_]{0,62}$",
        description="Name of the sensor.",
    )
    notify: Literal["log", "slack", "email"] = Field(
        default="log", description="Who is told, beside the sensor's log."
    )
    slack: Slack | None = Field(default=None, description="For notify: slack.")
    email: Email | None = Field(default=None, description="For notify: email.")
    base_url: str | None = Field(
        default=None,
        description="Address of the Dagster webserver, for the link to the run.",
        examples=["https://dagster.example.com"],
    )
    jobs: list[str] = Field(
        default=[],
        description="Jobs whose runs are reported.",
        examples=[["house_prices_training"]],
    )
    assets: str | None = Field(
        default=None,
        description="Assets whose runs are reported, in Dagster's selection syntax.",
        examples=["group:house_prices", "tag:domain=housing or kind:dbt"],
    )

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        return value and _checked_url(value)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """One sensor, running by default."""
        mistakes = [str(mistake) for mistake in self._mistakes(context)]
        if mistakes:
            raise InvalidAttribute("\n".join(mistakes))
        notifier = self._notifier()

        @dg.run_failure_sensor(
            name=self.name,
            description="Reports failed runs in its log"
            + ("." if self.notify == "log" else f" and through {self.notify}."),
            default_status=dg.DefaultSensorStatus.RUNNING,
        )
        def report(context: dg.RunFailureSensorContext) -> None:
            if self._is_selected(context):
                alert = failed_run(context).alert(self.base_url, self._hide)
                # First, so that no failure further on can lose it.
                context.log.error(alert.text)
                if notifier is not None:
                    self._send(notifier, alert, context)

        return dg.Definitions(sensors=[report])

    def _send(self, notifier: Notifier, alert: Alert, context: dg.RunFailureSensorContext) -> None:
        """Raises AlertNotSent, which makes the tick fail; Dagster does not send the alert again.

        The failed run says so too: a later alert of the same tick makes the tick a success.
        """
        try:
            notifier.send(alert)
        except NotificationFailed as failed:
            reason = f"The alert was not sent. {self._hide(str(failed))}"
            context.log.error(reason)
            context.instance.report_engine_event(reason, context.dagster_run)
            raise AlertNotSent(
                f"{reason}\nIt is not sent again; this is what it said:\n{alert.text}"
            ) from None

    def _notifier(self) -> Notifier | None:
        if self.notify == "slack" and self.slack is not None:
            return SlackNotifier(
                channel=self.slack.channel,
                token_variable=self.slack.token_variable,
                api_url=self.slack.api_url.rstrip("/") + "/",
            )
        if self.notify == "email" and self.email is not None:
            email = self.email
            return EmailNotifier(
                sender=email.sender,
                recipients=tuple(email.recipients),
                host=email.host,
                port=email.port or _PORTS[email.security],
                security=email.security,
                user=email.user or email.sender,
                password_variable=email.password_variable,
            )
        return None

    def _is_selected(self, context: dg.RunFailureSensorContext) -> bool:
        """Whether the run is reported. A selection that matches nothing selects every run."""
        if not self.jobs and self.assets is None:
            return True
        if context.dagster_run.job_name in self.jobs:
            return True
        repository = context.repository_def
        if repository is None:
            return True
        for name in self.jobs:
            if not repository.has_job(name):
                context.log.warning(f"there is no job {name!r}, so every run is reported")
                return True
        if self.assets is None:
            return False
        selected = dg.AssetSelection.from_string(self.assets).resolve(repository.asset_graph)
        if not selected:
            context.log.warning(f"{self.assets!r} is no asset, so every run is reported")
            return True
        return not selected.isdisjoint(assets_of(context))

    def _hide(self, text: str) -> str:
        variables = [name for _, name in self._secret_variables()]
        return redact(text, os.environ, variables)

    def _secret_variables(self) -> Iterator[tuple[str, str]]:
        """The attributes that name a secret's variable, with the name."""
        if self.slack is not None:
            yield "slack.token_variable", self.slack.token_variable
        if self.email is not None and self.email.password_variable is not None:
            yield "email.password_variable", self.email.password_variable

    def _mistakes(self, context: dg.ComponentLoadContext) -> Iterator[InvalidAttribute]:
        for attribute, name in self._secret_variables():
            if not _VARIABLE.fullmatch(name):
                # Without what was found: it may be the secret itself.
                yield invalid_attribute(
                    context,
                    attribute,
                    "must be the name of an environment variable (letters, digits and _) that "
                    "holds the secret, and never the secret",
                )
        if self.assets is not None:
            try:
                dg.AssetSelection.from_string(self.assets)
            except dg.DagsterError as error:
                yield invalid_attribute(
                    context, "assets", f"{error}. Write it as group:house_prices or kind:dbt"
                )
        if self.notify == "slack":
            if self.slack is None:
                yield invalid_attribute(
                    context, "notify", 'slack needs the attribute slack: {channel: "#…"}'
                )
            if importlib.util.find_spec("dagster_slack") is None:
                yield invalid_attribute(
                    context, "notify", "slack needs the extra: pip install 'sf_sagemaker[slack]'"
                )
        if self.notify == "email" and self.email is None:
            yield invalid_attribute(
                context,
                "notify",
                "email needs the attribute email: {sender: …, recipients: […], host: …}",
            )
        if self.email and self.email.security == "none" and self.email.password_variable:
            yield invalid_attribute(
                context,
                "email.security",
                "none would send the password in the clear: use ssl or starttls, or leave out "
                "password_variable",
            )


def _checked_url(value: str) -> str:
    if not _URL.fullmatch(value):
        raise ValueError("not an address that begins with http:// or https://, without a login")
    return value
