"""Taking secrets out of a text that leaves the project: an alert, a message to a person.

The project's own errors carry no secret; what a library or a service says in its errors is out of
its hands.
"""

import re
from collections.abc import Collection, Mapping

REDACTED = "[redacted]"

_SECRET_WORDS = frozenset(
    {
        "CREDENTIAL",
        "CREDENTIALS",
        "KEY",
        "PASS",
        "PASSPHRASE",
        "PASSWD",
        "PASSWORD",
        "SECRET",
        "TOKEN",
    }
)
_SHORTEST = 6  # a shorter value would be found within ordinary words

_NAMED = (
    r"(?:password|passwd|passphrase|pwd|token|secret|credentials?"
    r"|(?:api|access|private|secret|account)[ _-]?key)"
)
_PATTERNS = (
    # Whole forms first: the later patterns would leave parts of them standing.
    (
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        REDACTED,
    ),
    (r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}", rf"\1 {REDACTED}"),
    (r"(://)[^/\s@]*:[^/\s@]+(@)", rf"\1{REDACTED}\2"),
    (
        rf"(?i)({_NAMED}[\w-]*[\"']?\s*(?:=|:)\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&\"']+)",
        rf"\1{REDACTED}",
    ),
    (r"(?i)([?&](?:X-Amz-Signature|X-Amz-Credential|sig|signature)=)[^&\s]+", rf"\1{REDACTED}"),
    (r"\bxox[a-z]-[\w-]+|\bxapp-[\w-]+", REDACTED),
    (r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", REDACTED),
    (r"\beyJ[\w-]+\.[\w-]+\.[\w-]+", REDACTED),
)


def redact(text: str, environment: Mapping[str, str], variables: Collection[str] = ()) -> str:
    """The text without what looks like a secret.

    Taken out are the values of the named `variables` of the environment and of those whose names
    say that they hold a secret (…_PASSWORD, …_TOKEN, …_KEY), keys, tokens and passwords by their
    form, and what follows `password=` and the like.
    """
    secrets = {
        value
        for name, value in environment.items()
        if (name in variables or _SECRET_WORDS & set(name.upper().split("_")))
        and len(value) >= _SHORTEST
    }
    for secret in sorted(secrets, key=len, reverse=True):  # a secret may be part of another
        text = text.replace(secret, REDACTED)
    for pattern, replacement in _PATTERNS:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    return text
