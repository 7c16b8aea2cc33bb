"""The meaning of a failed request, whichever library reports it.

Is the file missing? Are its bytes damaged? May another attempt help?
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, TypeAlias

from tokenstore.errors import DamageError
from tokenstore.storage.redaction import Secrets

_PASSING_STATUSES = frozenset({408, 425, 429})
_LASTING_STATUSES = frozenset({501, 505})
_PASSING_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "NoSuchUpload",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "XAmzContentSHA256Mismatch",
    }
)
"""S3's names of errors that may pass by themselves, whatever their HTTP status."""
_PASSING_TYPES = frozenset(
    {
        ("aiohttp", "ClientError"),
        ("botocore", "ConnectionError"),
        ("botocore", "HTTPClientError"),
        ("botocore", "IncompleteReadError"),
        ("botocore", "ResponseParserError"),
        ("httpcore", "NetworkError"),
        ("httpx", "TransportError"),
        ("requests", "RequestException"),
        ("urllib3", "HTTPError"),
    }
)
"""The base classes, (package, name), of the exceptions that libraries raise when the network fails."""
_CHECKSUM_TYPES = frozenset({("botocore", "FlexibleChecksumError")})
_CREDENTIALS_TYPES = frozenset(
    {
        ("botocore", "NoCredentialsError"),
        ("botocore", "PartialCredentialsError"),
        ("botocore", "CredentialRetrievalError"),
        ("botocore", "TokenRetrievalError"),
        ("google", "DefaultCredentialsError"),
        ("google", "RefreshError"),
    }
)
_CUT_OFF = frozenset({"ClientPayloadError", "ConnectionClosedError", "ServerDisconnectedError"})
_TEXT_LENGTH = 300
_PHRASES = {status.value: status.phrase for status in HTTPStatus}

Kind: TypeAlias = Literal["missing", "damaged", "refused", "lasting", "passing"]


class AnswerError(Exception):
    """A web server's answer with an HTTP status of failure."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


class ReplacedError(DamageError):
    """An answer with the bytes of another version of the file than was asked for."""


class ShortAnswerError(Exception):
    """An answer with fewer bytes than were asked for."""


class LongAnswerError(Exception):
    """An answer with more bytes than were asked for."""


class UnsupportedError(Exception):
    """The request is one that this kind of storage cannot serve."""


@dataclass(frozen=True)
class Fault:
    """The reason why a request failed; `text` holds no secret."""

    kind: Kind
    text: str


def is_past_end(error: Exception) -> bool:
    """Return True if a range was refused because the file ends before it."""
    return any(answer is not None and answer[0] == 416 for answer in map(_answer, _chain(error)))


def is_taken(error: Exception) -> bool:
    """Return True if a file was not created because one of its name exists."""
    refused = any(answer is not None and answer[0] == 412 for answer in map(_answer, _chain(error)))
    return refused or isinstance(error, FileExistsError)


def fault_of(error: Exception, secrets: Secrets, seconds: float) -> Fault:
    """Return the fault behind an error that ended an attempt after so many `seconds`."""
    status, code = next(filter(None, map(_answer, _chain(error))), (None, ""))
    text = " ".join(secrets.hide(_text(error, status, code, seconds)).split())[:_TEXT_LENGTH]
    if code == "NoSuchBucket":
        return Fault("lasting", f"there is no such bucket ({text})")
    if isinstance(error, UnsupportedError):
        return Fault("lasting", text)
    if isinstance(error, ShortAnswerError | LongAnswerError) or _is_any(error, _CHECKSUM_TYPES):
        return Fault("damaged", text)
    if code in _PASSING_CODES:
        return Fault("passing", text)
    return Fault(_kind_of_error(error) if status is None else _kind_of_status(status), text)


def _kind_of_status(status: int) -> Kind:
    if status in (404, 410):
        return "missing"
    if status in (401, 403, 407):
        return "refused"
    passes = status in _PASSING_STATUSES or (status >= 500 and status not in _LASTING_STATUSES)
    return "passing" if passes else "lasting"


def _kind_of_error(error: Exception) -> Kind:
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, PermissionError) or _is_any(error, _CREDENTIALS_TYPES):
        return "refused"
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _chain(error)):
        return "lasting"
    if isinstance(error, ValueError | FileExistsError | IsADirectoryError | NotADirectoryError):
        return "lasting"
    passes = isinstance(error, OSError | EOFError) or _is_any(error, _PASSING_TYPES)
    return "passing" if passes else "lasting"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, the outermost first."""
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__


def _answer(error: BaseException) -> tuple[int, str] | None:
    """Return the HTTP status and S3's name for the error, or None if no server has answered."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(response.get("Error", {}).get("Code", ""))
        return (int(code), "") if code.isdigit() else (int(status), code)
    if type(error).__name__ == "ClientResponseError" and error.__cause__ is not None:
        return None  # subtle: aiohttp's way to say that the answer is not HTTP
    candidates = [getattr(response, "status_code", None), getattr(error, "status_code", None)]
    candidates.append(getattr(error, "status", None))
    if type(error).__name__ == "HttpError":
        candidates.append(getattr(error, "code", None))
    return next(((status, "") for status in candidates if isinstance(status, int)), None)


def _text(error: Exception, status: int | None, code: str, seconds: float) -> str:
    if status is not None:
        return f"{status} {code or _PHRASES.get(status, '')}".strip()
    if isinstance(error, TimeoutError) and not str(error):
        return f"nothing within {seconds:.3g} s"
    if type(error).__name__ in _CUT_OFF:
        return "the connection was closed too early"
    system = [cause for cause in _chain(error) if isinstance(cause, OSError) and cause.strerror]
    if system and not isinstance(error, FileNotFoundError):
        return str(system[-1].strerror)
    return str(error) or type(error).__name__


def _is_any(error: BaseException, types: frozenset[tuple[str, str]]) -> bool:
    return any((base.__module__.split(".")[0], base.__name__) in types for base in type(error).__mro__)
