"""Asks an ext_authz server, with the messages and the gRPC of others.

Usage: ask.py ADDRESS. Each line of standard input is {"token": ..., "check": CheckRequest in JSON}; each line of
standard output is {"code": ..., "response": CheckResponse in JSON, "unknown": fields that Envoy does not know}.
"""

import json
import sys

import grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from google.protobuf import json_format, unknown_fields


def unknown(message):
    """How many fields of a message, and of those in it, its description does not have."""
    count = len(unknown_fields.UnknownFieldSet(message))
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            held = field.message_type.fields_by_name["value"].message_type
            values = value.values() if held is not None else []
        else:
            values = value if hasattr(value, "add") else [value]
        count += sum(unknown(one) for one in values)
    return count


channel = grpc.insecure_channel(sys.argv[1])
stub = external_auth_pb2_grpc.AuthorizationStub(channel)
for line in sys.stdin:
    asked = json.loads(line)
    request = json_format.ParseDict(asked["check"], external_auth_pb2.CheckRequest())
    metadata = [("authorization", "Bearer " + asked["token"])] if asked["token"] else []
    try:
        response = stub.Check(request, metadata=metadata, timeout=20)
        written = json_format.MessageToDict(response, preserving_proto_field_name=True)
        told = {"code": "OK", "response": written, "unknown": unknown(response)}
    except grpc.RpcError as error:
        told = {"code": error.code().name}
    print(json.dumps(told))
