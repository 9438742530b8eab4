"""A gRPC client with a typical retry policy. Arguments: ADDRESS SECRET METHOD CALLS.

Makes up to CALLS calls with a deadline of 8 s each and stops at the first error. Prints the status code of
the last call and its duration in milliseconds.
"""

import json
import sys
import time

import grpc

address, secret, method, calls = sys.argv[1:]
retry = {
    "maxAttempts": 5,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
}
service = method.split("/")[1]
config = {"methodConfig": [{"name": [{"service": service}], "retryPolicy": retry}]}
options = [("grpc.enable_retries", 1), ("grpc.service_config", json.dumps(config))]
metadata = [("authorization", "Bearer " + secret)]
with grpc.insecure_channel(address, options) as channel:
    call = channel.unary_unary(method, lambda message: message, lambda message: message)
    code = "OK"
    for _ in range(int(calls)):
        start = time.monotonic()
        try:
            # A protobuf message with the varint 1 as field 1.
            call(b"\x08\x01", timeout=8, metadata=metadata)
        except grpc.RpcError as error:
            code = error.code().name
            break
    print(code, round((time.monotonic() - start) * 1000))
