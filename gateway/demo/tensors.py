"""The Open Inference Protocol (V2; tensors as JSON) and TensorFlow Serving's `:predict`.

It computes nothing: numbers come back multiplied by the number in the version's name.
"""

import math
import re
import secrets
from collections.abc import Iterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.demo.wire import Demo, Refused, as_json, read

_NUMERIC = re.compile(r"U?INT(8|16|32|64)|FP(16|32|64)")


class Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]  # flat or nested, row-major


class InferRequest(msgspec.Struct):
    inputs: list[Tensor]
    id: str = ""


class PredictRequest(msgspec.Struct):
    instances: list[Any]


class Tensors:
    def __init__(self, demo: Demo) -> None:
        self.demo = demo

    def routes(self) -> list[Route]:
        routes = [
            Route("/v1/models/{model:path}/versions/{version}:predict", self.predict, methods=["POST"]),
            Route("/v1/models/{model:path}:predict", self.predict, methods=["POST"]),
            Route("/v2", self.server),
            Route("/v2/health/{state}", self.health),
        ]
        for model in ("/v2/models/{model:path}/versions/{version}", "/v2/models/{model:path}"):
            routes.append(Route(f"{model}/infer", self.infer, methods=["POST"]))
            routes.append(Route(f"{model}/ready", self.ready))
            routes.append(Route(model, self.metadata))
        return routes

    async def server(self, request: Request) -> Response:
        return as_json({"name": "demo-model", "version": self.demo.version, "extensions": []})

    async def health(self, request: Request) -> Response:
        if request.path_params["state"] not in ("live", "ready"):
            raise Refused("Not Found", 404)
        return as_json({request.path_params["state"]: True})

    async def ready(self, request: Request) -> Response:
        self.demo.check(**request.path_params)
        return as_json({"name": self.demo.name, "ready": True})

    async def metadata(self, request: Request) -> Response:
        self.demo.check(**request.path_params)
        tensors = [{"name": "x", "datatype": "FP64", "shape": [-1]}]
        about = {"name": self.demo.name, "versions": [self.demo.version], "platform": "demo"}
        return as_json(about | {"inputs": tensors, "outputs": tensors})

    async def infer(self, request: Request) -> Response:
        """Each input comes back under its own name, multiplied by the version's number."""
        self.demo.check(**request.path_params)
        if "inference-header-content-length" in request.headers:
            raise Refused("tensors in binary are not supported: send them as JSON")
        call = await read(request, InferRequest)
        outputs = [
            Tensor(tensor.name, tensor.shape, tensor.datatype, [x * self.demo.factor for x in _numbers(tensor)])
            for tensor in call.inputs
        ]
        about = {"model_name": self.demo.name, "model_version": self.demo.version}
        return as_json(about | {"id": call.id or secrets.token_hex(8), "outputs": outputs})

    async def predict(self, request: Request) -> Response:
        self.demo.check(**request.path_params)
        call = await read(request, PredictRequest)
        return as_json({"predictions": [_scaled(instance, self.demo.factor) for instance in call.instances]})


def _numbers(tensor: Tensor) -> list[Any]:
    """The tensor's values, flat. Raises Refused unless they are of its datatype and fill its shape."""
    if not _NUMERIC.fullmatch(tensor.datatype):
        raise Refused(f"input {tensor.name!r}: the datatype {tensor.datatype!r} is not numeric")
    flat = list(_flatten(tensor.data))
    allowed = (int, float) if tensor.datatype.startswith("FP") else (int,)
    if any(not isinstance(value, allowed) or isinstance(value, bool) for value in flat):
        raise Refused(f"input {tensor.name!r}: not every value is of the datatype {tensor.datatype}")
    if min(tensor.shape, default=1) < 0 or len(flat) != math.prod(tensor.shape):
        raise Refused(f"input {tensor.name!r}: {len(flat)} values do not fill the shape {tensor.shape}")
    return flat


def _flatten(data: list[Any]) -> Iterator[Any]:
    for item in data:
        if isinstance(item, list):
            yield from _flatten(item)
        else:
            yield item


def _scaled(value: Any, factor: int) -> Any:
    if isinstance(value, list):
        return [_scaled(item, factor) for item in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused("instances: only numbers and lists of them can be multiplied")
    return value * factor
