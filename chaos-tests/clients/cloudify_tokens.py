"""The tokens of an unmodified Python REST client of Cloudify, each call on whichever node comes next.

    cloudify_tokens.py CLUSTER

CLUSTER is JSON: {"addresses": [...], "port": ..., "ca": PATH, "username": ..., "password": ...}.
"""

import itertools
import json
import re
import sys

from cloudify_rest_client import CloudifyClient
from cloudify_rest_client.exceptions import CloudifyClientError, UserUnauthorizedError


class Nodes:
    """Clients of all nodes that show the same credentials."""

    def __init__(self, cluster, **credentials):
        self.clients = [
            CloudifyClient(
                host=address, port=cluster["port"], protocol="https", cert=cluster["ca"], tenant="default_tenant", **credentials
            )
            for address in cluster["addresses"]
        ]
        self.turns = itertools.cycle(self.clients)

    @property
    def next(self):
        """Another node with each call: it must not matter which one is asked."""
        return next(self.turns)


def refused(status, code, call):
    try:
        call()
    except CloudifyClientError as error:
        assert (error.status_code, error.error_code) == (status, code), f"{error.status_code} {error.error_code}: {error}"
        return error
    raise AssertionError(f"not refused with {status} {code}")


def ids(nodes, **parameters):
    return {token.id for token in nodes.next.tokens.list(**parameters)}


def unauthorized(nodes):
    for client in nodes.clients:
        error = refused(401, "unauthorized_error", client.blueprints.list)
        assert isinstance(error, UserUnauthorizedError), type(error)


def main(cluster):
    def by_password(name, password):
        return Nodes(cluster, username=name, password=password)

    admin = by_password(cluster["username"], cluster["password"])

    made = admin.next.tokens.create(description="of the admin", expiration="+1 day+2h")
    assert re.fullmatch(r"ctok-[0-9A-Za-z]{10}-[0-9A-Za-z]{40}", made.value), made
    assert made.value.split("-")[1] == made.id and made.username == cluster["username"] and made.role == "sys_admin", made
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made.expiration_date), made
    assert made.description == "of the admin" and made.last_used is None, made
    plain = admin.next.tokens.create()
    assert plain.description is None and plain.expiration_date is None, plain
    far = admin.next.tokens.create(expiration="2121-03-09 14:52")
    assert far.expiration_date == "2121-03-09T14:52:00.000Z", far
    assert {made.id, plain.id, far.id} <= ids(admin)
    shown = admin.next.tokens.get(made.id)
    assert shown == dict(made, value=f"ctok-{made.id}-********"), shown
    past = refused(400, "bad_parameters_error", lambda: admin.next.tokens.create(expiration="2001-01-01 00:00"))
    assert "has passed" in str(past), past
    for bad in ({"expiration_date": "tomorrow"}, {"expiration_date": 7}, {"description": []}, {"description": "a\0b"}):
        refused(400, "bad_parameters_error", lambda: admin.next.tokens.api.post("/tokens", data=bad))

    # In place of a password; also to make another, and to delete itself.
    by_token = Nodes(cluster, token=made.value)
    for client in by_token.clients:
        client.blueprints.list()
    assert by_token.next.manager.get_status()["status"] == "OK"
    second = by_token.next.tokens.create()
    assert second.username == cluster["username"], second

    # Others see and delete their own tokens; an administrator everybody's.
    admin.next.users.create("tokens_user", "a-password", "default")
    user = by_password("tokens_user", "a-password")
    own = user.next.tokens.create(description="of the user")
    assert own.username == "tokens_user" and own.role == "default", own
    assert ids(user) == {own.id} and ids(user, username=cluster["username"]) == set()
    assert own.id in ids(admin) and ids(admin, username="tokens_user") == {own.id}
    missing = [lambda: user.next.tokens.get(plain.id), lambda: user.next.tokens.delete(plain.id), lambda: admin.next.tokens.get("nope")]
    for call in missing:
        refused(404, "not_found_error", call)
    assert plain.id in ids(admin)
    assert admin.next.tokens.get(own.id).description == "of the user"
    assert Nodes(cluster, token=own.value).next.tokens.get(own.id).id == own.id
    refused(403, "forbidden_error", Nodes(cluster, token=own.value).next.blueprints.list)

    # Deleted on one node, refused by all from then on.
    admin.next.tokens.delete(plain.id)
    refused(404, "not_found_error", lambda: admin.next.tokens.delete(plain.id))
    unauthorized(Nodes(cluster, token=plain.value))
    admin.next.tokens.delete(own.id)
    unauthorized(Nodes(cluster, token=own.value))
    by_token.next.tokens.delete(made.id)
    unauthorized(by_token)
    unauthorized(Nodes(cluster, token="ctok-nonsense"))
    unauthorized(Nodes(cluster, token=f"ctok-{far.id}-{second.value.split('-')[2]}"))
    for token in (far, second):
        Nodes(cluster, token=token.value).next.tokens.delete(token.id)


main(json.loads(sys.argv[1]))
