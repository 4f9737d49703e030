"""What the stand-in's protocols share: whose model it is, reading a body, writing one, refusing."""

import re
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

T = TypeVar("T")


class Refused(HTTPException):
    """A request that cannot be served, with the `code` of the OpenAI error shape."""

    def __init__(self, message: str, status: int = 400, code: str | None = None) -> None:
        super().__init__(status, message)
        self.code = code


class Demo:
    """One model in one version. `delay` (seconds) precedes every streamed chunk; `factor` multiplies tensors."""

    def __init__(self, name: str, version: str, delay: float = 0.0) -> None:
        self.name = name
        self.version = version
        self.delay = delay
        self.factor = int("".join(re.findall(r"\d+", version)) or 1)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    def check(self, model: str, version: str | None = None) -> None:
        """Raises Refused (404) unless this is the model, and the version if one is named."""
        if model != self.name:
            raise Refused(f"The model {model!r} does not exist; this server has {self.name!r}.", 404, "model_not_found")
        if version not in (None, self.version):
            raise Refused(f"{self.name!r} has the version {self.version!r}, not {version!r}.", 404, "version_not_found")


async def read(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(f"The body cannot be understood: {error}") from error


def as_json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
