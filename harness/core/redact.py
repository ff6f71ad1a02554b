"""Secrets out of messages: what is printed, logged or sent to a server passes through here."""

import re

MASK = "***"
NAMES = r"(?:[\w.-]*(?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|signature|credential)|sig)"

PATTERNS = (
    # scheme://user:password@host; a password may hold / and @, so the last @ of the word ends it
    (re.compile(r"(\b[a-z][\w+.-]*://[^\s:/@]*):[^\s'\"]*@", re.I), rf"\1:{MASK}@"),
    # scheme://token@host
    (re.compile(r"(\b[a-z][\w+.-]*://)(?![^\s/@]*:\*\*\*@)[^\s:/@'\"]+@", re.I), rf"\1{MASK}@"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.I), rf"\1 {MASK}"),
    # token=..., "password": "...", X-Amz-Signature=...
    (re.compile(rf"\b({NAMES})(['\"]?\s*[=:]\s*['\"]?)(?!\*\*\*)[^\s&'\",;}}]+", re.I), rf"\1\2{MASK}"),
    # tokens that are known by their first letters: GitHub, Hugging Face, AWS, OpenAI
    (re.compile(r"\b(gh[opsu]_|github_pat_|hf_|AKIA|sk-)[\w-]{12,}"), rf"\1{MASK}"),
)


def redact(text: str) -> str:
    """The text with passwords of URLs, bearer tokens and values of secret-sounding keys replaced by ***."""
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def one_line(error: object, limit: int = 300) -> str:
    """An exception's message as one redacted line of at most `limit` characters."""
    text = redact(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
