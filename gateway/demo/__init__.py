"""A stand-in for a model server, for trying the gateway and for its tests.

It speaks the OpenAI API, the Open Inference Protocol and TensorFlow Serving's `:predict`, and echoes every other
request. Every answer says which server gave it: `x-demo-model: name@version`.
"""
