"""Secrets out of messages: what is printed, logged or sent to a server passes through here."""

import os
import re

MASK = "***"
NAMES = (
    r"(?:[\w.-]*(?:password|passwd|pwd(?!\s*=\s*/)|secret|token|api[_-]?key|access[_-]?key|signature|credential)|sig)"
)
KNOWN = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")  # variables whose values are masked wherever they stand
SHORT = 6  # characters below which such a value may be a word like any other

PATTERNS = (
    # scheme://user:password@host; a password may hold / and @, so the last @ of the word ends it
    (re.compile(r"(\b[a-z][\w+.-]*://[^\s:/@]*):[^\s\"]*@", re.I), rf"\1:{MASK}@"),
    # scheme://token@host
    (re.compile(r"(\b[a-z][\w+.-]*://)(?![^\s/@]*:\*\*\*@)[^\s:/@'\"]+@", re.I), rf"\1{MASK}@"),
    (re.compile(r"\b(bearer|basic(?=\s+\S*[\d=]))\s+[\w.~+/=-]{8,}", re.I), rf"\1 {MASK}"),
    # MLFLOW_TRACKING_PASSWORD=..., as a shell has it: to the next blank
    (re.compile(r"\b([A-Z][A-Z0-9_]*(?:PASSWORD|SECRET|TOKEN|KEY))=(?!\*\*\*)[^\s'\"]+"), rf"\1={MASK}"),
    # password="two words", --password word
    (re.compile(rf"\b({NAMES})(['\"]?\s*[=:]\s*)(['\"])(?!\*\*\*).*?\3", re.I), rf"\1\2\3{MASK}\3"),
    (re.compile(rf"(--{NAMES})\s+(?!\*\*\*)[^\s-]\S*", re.I), rf"\1 {MASK}"),
    # token=..., "password": "...", X-Amz-Signature=...
    (re.compile(rf"\b({NAMES})(['\"]?\s*[=:]\s*['\"]?)(?!\*\*\*)[^\s&'\",;}}]+", re.I), rf"\1\2{MASK}"),
    # tokens that are known by their first letters: GitHub, Hugging Face, AWS, OpenAI
    (re.compile(r"\b(gh[opsu]_|github_pat_|hf_|AKIA|sk-(?!learn))[\w-]{12,}"), rf"\1{MASK}"),
)


def redact(text: str) -> str:
    """Return the text with *** for passwords of URLs, bearer tokens, values of secret-sounding keys, MLflow's own."""
    for value in filter(None, map(os.environ.get, KNOWN)):
        if len(value) >= SHORT:
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", MASK, text)
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def one_line(error: object, limit: int = 300) -> str:
    """Return an exception's message as one redacted line of at most `limit` characters."""
    text = redact(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
