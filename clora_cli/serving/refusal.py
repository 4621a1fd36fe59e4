"""Errors in OpenAI's form (layer L3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clora_cli.base.errors import ArtifactError, CloraError, DataError, MismatchError, OptionError, UnknownNameError
from clora_cli.base.legible import shortened
from clora_cli.serving.feed import LateError

__all__ = ["Refusal", "refusal_of"]

_KINDS = {401: "authentication_error", 408: "timeout_error", 429: "rate_limit_error", 504: "timeout_error"}
_CLIENTS, _SERVERS = 400, 500  # the first statuses of which either is to blame
_MOST = 1000  # letters of a reason: what a request names may be as long as a body
_STATUSES: tuple[tuple[type[CloraError], int], ...] = (
    (LateError, 504),
    (UnknownNameError, 404),
    (OptionError, 400),
    (DataError, 400),
    (MismatchError, 400),
    (ArtifactError, 503),
)


class Refusal(Exception):  # noqa: N818 - what a client is told, which need not be an error of anybody's
    """A request that is not carried out.

    Args:
        status: Of HTTP.
        text: What is wrong, and what to do.
        code: A stable name for the reason.
        param: Which entry of the body is meant.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        text: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(shortened(text, _MOST))
        self.status, self.code, self.param, self.headers = status, code, param, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The answer's body."""
        clients = _CLIENTS <= self.status < _SERVERS
        kind = _KINDS.get(self.status, "invalid_request_error" if clients else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def refusal_of(error: CloraError) -> Refusal:
    """Return what a client is told of an error."""
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    code = "model_not_found" if isinstance(error, UnknownNameError) else error.code or None
    code = "context_length_exceeded" if code == "prompt-too-long" else code
    status = 503 if code == "server-stops" else status
    param = "model" if code in {"model_not_found", "served-model-malformed"} else None
    return Refusal(status, str(error), code=code, param=param)
