"""Speaks to a service with authlib's client, as a resource server and a holder of a token do.

Arguments: the issuer, the client's id and secret. Standard input: a line of JSON for each step,
{"introspect": TOKEN} or {"revoke": TOKEN}, with "bearer": true to show the secret as a bearer. Standard
output: a line of JSON for each step, the status and the answer; before them one of the metadata, which says
where to ask.
"""

import json
import sys

import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata, get_well_known_url

issuer, client_id, secret = sys.argv[1:]

found = requests.get(get_well_known_url(issuer, external=True), timeout=30)
metadata = AuthorizationServerMetadata(found.json())
# Not all of it: authlib wants an https URL, a token endpoint and a response type, and here is none of them.
assert metadata["response_types_supported"] == [], metadata
metadata.validate_grant_types_supported()
metadata.validate_revocation_endpoint_auth_methods_supported()
metadata.validate_introspection_endpoint_auth_methods_supported()
assert metadata["issuer"] == issuer, metadata
print(json.dumps([found.status_code, metadata]), flush=True)

basic = OAuth2Session(client_id, secret, token_endpoint_auth_method="client_secret_basic")
# What revocation says that it takes.
nobody = OAuth2Session(client_id, None, revocation_endpoint_auth_method="none")


def bearer(client, method, uri, headers, body):
    headers["Authorization"] = f"Bearer {secret}"
    return uri, headers, body


for line in sys.stdin:
    step = json.loads(line)
    if "introspect" in step:
        auth = bearer if step.get("bearer") else None
        answer = basic.introspect_token(
            metadata["introspection_endpoint"],
            token=step["introspect"],
            token_type_hint="access_token",
            auth=basic.client_auth(auth) if auth else None,
        )
    else:
        answer = nobody.revoke_token(metadata["revocation_endpoint"], token=step["revoke"])
    print(json.dumps([answer.status_code, answer.json() if answer.content else None]), flush=True)
