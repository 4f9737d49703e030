"""Runs in MLServer's environment: Triton's own HTTP clients, the gevent one and the asyncio one, over TLS.

usage: triton.py HOST:PORT CA_FILE KEY EXPECTED_JSON      prints what each call gave, as JSON
"""

import asyncio
import json
import ssl
import sys
from pathlib import Path

import numpy
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

address, ca_file, key, expected_file = sys.argv[1:]
headers = {"authorization": f"Bearer {key}"}
samples = numpy.array(json.loads(Path(expected_file).read_text())["samples"])
asked = tritonclient.http.InferInput("x", list(samples.shape), "FP64")
asked.set_data_from_numpy(samples, binary_data=False)  # MLServer has no binary tensors
wanted = [tritonclient.http.InferRequestedOutput("predict", binary_data=False)]


def failure(client, *arguments, **options):
    try:
        client.infer(*arguments, **options)
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    return None


def synchronous():
    found = {}
    with tritonclient.http.InferenceServerClient(address, ssl=True, ssl_options={"ca_certs": ca_file}) as client:
        for version in ("v1", "v2"):
            result = client.infer("iris", [asked], model_version=version, outputs=wanted, headers=headers)
            found[version] = result.as_numpy("predict").ravel().tolist()
            found[f"{version} name"] = result.get_response()["model_version"]
            found[f"{version} ready"] = client.is_model_ready("iris", version, headers=headers)
        zipped = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}
        # (the client writes Content-Encoding into the headers that it is given)
        result = client.infer("iris", [asked], model_version="v2", outputs=wanted, headers=dict(headers), **zipped)
        found["zipped"] = result.as_numpy("predict").ravel().tolist()
        found["metadata"] = client.get_model_metadata("iris", "v1", headers=headers)["name"]
        found["live"] = client.is_server_live(headers=headers | {"x-model": "iris"})
        found["parallel"] = [
            pending.get_result().as_numpy("predict").ravel().tolist()
            for pending in [
                client.async_infer("iris", [asked], model_version="v2", outputs=wanted, headers=headers)
                for _ in range(8)
            ]
        ]
        found["no key"] = failure(client, "iris", [asked])
        found["no model"] = failure(client, "rose", [asked], headers=headers)
        found["no version"] = failure(client, "iris", [asked], model_version="v9", headers=headers)
    return found


async def asynchronous():
    context = ssl.create_default_context(cafile=ca_file)
    typed = headers | {"content-type": "application/json"}  # aiohttp would say octet-stream, which MLServer refuses
    async with tritonclient.http.aio.InferenceServerClient(address, ssl=True, ssl_context=context) as client:
        calls = (client.infer("iris", [asked], v, outputs=wanted, headers=typed) for v in ("v1", "v2") * 10)
        return [result.as_numpy("predict").ravel().tolist() for result in await asyncio.gather(*calls)]


print(json.dumps(synchronous() | {"asyncio": asyncio.run(asynchronous())}))
