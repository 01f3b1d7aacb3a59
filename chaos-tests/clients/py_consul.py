"""What an unmodified py-consul does with a cluster of three nodes.

    py_consul.py calls CLUSTER       every part of the API, each call on whichever node comes next
    py_consul.py leader_loss CLUSTER locks, sessions and blocking queries while the leader is killed

CLUSTER is JSON: {"nodes": [{"address": ..., "name": ...}, ...], "ca": PATH, "token": ..., "certificate": PATH}.
"""

import base64
import itertools
import json
import sys
import threading
import time

import consul

DEADLINE = 30


class Nodes:
    """Clients of all nodes."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.clients = [self.client(node, token=cluster["token"]) for node in cluster["nodes"]]
        self.turns = itertools.cycle(self.clients)

    def client(self, node, **options):
        return consul.Consul(host=node["address"], scheme="https", verify=self.cluster["ca"], **options)

    @property
    def next(self):
        """Another node with each call: it must not matter which one is asked."""
        return next(self.turns)


class Background(threading.Thread):
    """A call that waits, and what it gave."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self.call, self.answer, self.error, self.at = call, None, None, None
        self.start()

    def run(self):
        try:
            self.answer = self.call()
        except Exception as error:
            self.error = error
        self.at = time.monotonic()

    def result(self, limit=DEADLINE):
        self.join(limit)
        assert not self.is_alive(), "a blocking query does not come back"
        if self.error:
            raise self.error
        return self.answer


def until(what, look):
    end = time.monotonic() + DEADLINE
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"{what} did not happen in time"
        time.sleep(0.02)


def raises(kind, text, call):
    try:
        answer = call()
    except kind as error:
        assert text in str(error), f"expected {text!r}, got {error}"
        return
    raise AssertionError(f"{kind.__name__} was expected, not {answer!r}")


def keys(nodes):
    _, nothing = nodes.next.kv.get("a/b")
    assert nothing is None
    assert nodes.next.kv.put("a/b", "hello", flags=2**64 - 1) is True
    index, entry = nodes.next.kv.get("a/b")
    assert entry["Value"] == b"hello" and entry["Flags"] == 2**64 - 1 and int(index) == entry["ModifyIndex"], entry
    assert nodes.next.kv.put("a/b", "hello", flags=2**64 - 1)
    assert nodes.next.kv.get("a/b")[1]["ModifyIndex"] == entry["ModifyIndex"], "nothing was changed"
    assert nodes.next.kv.put("a/empty", None)
    assert nodes.next.kv.get("a/empty")[1]["Value"] is None
    assert nodes.next.kv.put("a/sub/c", b"\x00\xff")
    # Not "..": its HTTP library resolves that before it asks.
    for odd in ["odd/with space", "odd/ümlaut", "odd//two", "odd/50%"]:
        assert nodes.next.kv.put(odd, odd)
        assert nodes.next.kv.get(odd)[1]["Key"] == odd
    _, entries = nodes.next.kv.get("a/", recurse=True)
    assert [entry["Key"] for entry in entries] == ["a/b", "a/empty", "a/sub/c"], entries
    assert nodes.next.kv.get("a/", keys=True, separator="/")[1] == ["a/b", "a/empty", "a/sub/"]
    for consistency in ["default", "consistent", "stale"]:
        seen = lambda: nodes.next.kv.get("a/sub/c", consistency=consistency)[1]
        assert until("the write to be seen", seen)["Value"] == b"\x00\xff"
    assert nodes.next.kv.delete("odd", recurse=True) and nodes.next.kv.get("odd", recurse=True)[1] is None
    assert nodes.next.kv.delete("a/absent")
    raises(consul.base.ConsulException, "No path to datacenter", lambda: nodes.next.kv.get("a/b", dc="elsewhere"))
    large = "x" * 524288
    assert nodes.next.kv.put("a/large", large) and nodes.next.kv.get("a/large")[1]["Value"] == large.encode()
    raises(consul.exceptions.ClientError, "413", lambda: nodes.next.kv.put("a/large", large + "x"))


def check_and_set(nodes):
    assert nodes.next.kv.put("cas", "1", cas=0) is True
    assert nodes.next.kv.put("cas", "2", cas=0) is False
    version = nodes.next.kv.get("cas")[1]["ModifyIndex"]
    assert nodes.next.kv.put("cas", "2", cas=version) is True
    assert nodes.next.kv.put("cas", "3", cas=version) is False
    assert nodes.next.kv.delete("cas", cas=version) is False
    assert nodes.next.kv.put("absent", "1", cas=version) is False
    # Of all who increment at once, each increment counts once.
    nodes.next.kv.put("counter", "0")

    def increment(client):
        for _ in range(20):
            while True:
                entry = client.kv.get("counter")[1]
                if client.kv.put("counter", str(int(entry["Value"]) + 1), cas=entry["ModifyIndex"]):
                    break

    for worker in [Background(lambda client=client: increment(client)) for client in nodes.clients]:
        worker.result()
    assert nodes.next.kv.get("counter")[1]["Value"] == b"60"
    version = nodes.next.kv.get("cas")[1]["ModifyIndex"]
    assert nodes.next.kv.delete("cas", cas=version) is True


def locks(nodes):
    first = nodes.next.session.create(name="first", behavior="release", ttl=60, lock_delay=0)
    second = nodes.next.session.create(name="second", checks=[], behavior="delete", lock_delay=8)
    _, info = nodes.next.session.info(first)
    assert info["Name"] == "first" and info["TTL"] == "60s" and info["Checks"] == ["serfHealth"], info
    listed = {session["ID"] for session in nodes.next.session.list()[1]}
    assert {first, second} <= listed, listed
    named = [session["ID"] for node in nodes.cluster["nodes"] for session in nodes.next.session.node(node["name"])[1]]
    assert first in named and second in named, named
    assert nodes.next.session.renew(first)["ID"] == first

    assert nodes.next.kv.put("lock", "mine", acquire=first) is True
    assert nodes.next.kv.put("lock", "stolen", acquire=second) is False
    held = nodes.next.kv.get("lock")[1]
    assert (held["Session"], held["LockIndex"], held["Value"]) == (first, 1, b"mine"), held
    assert nodes.next.kv.put("lock", "again", acquire=first) is True
    assert nodes.next.kv.get("lock")[1]["LockIndex"] == 1
    assert nodes.next.kv.put("lock", "", release=second) is False
    assert nodes.next.kv.put("lock", "free", release=first) is True
    assert "Session" not in nodes.next.kv.get("lock")[1]
    assert nodes.next.kv.put("lock", "other", acquire=second) is True
    assert nodes.next.kv.get("lock")[1]["LockIndex"] == 2

    # The end of a session with the behaviour `delete` takes its keys along, and nobody has them for the lock-delay.
    waiting = Background(lambda: nodes.next.kv.get("lock", index=nodes.next.kv.get("lock")[0], wait="20s"))
    assert nodes.next.session.destroy(second) is True
    assert nodes.next.kv.put("lock", "early", acquire=first) is False
    assert waiting.result()[1] is None
    until("the end of the lock-delay", lambda: nodes.next.kv.put("lock", "late", acquire=first))
    assert nodes.next.session.destroy(first) is True
    free = nodes.next.kv.get("lock")[1]
    assert "Session" not in free and free["Value"] == b"late", free

    raises(consul.exceptions.NotFound, "not found", lambda: nodes.next.session.renew(first))
    # Patroni makes itself a new session only when the text begins so.
    raises(consul.base.ConsulException, "500 invalid session", lambda: nodes.next.kv.put("x", "", acquire=first))
    assert nodes.next.session.info(first)[1] is None


def expiry(nodes):
    session = nodes.next.session.create(checks=[], ttl=10, behavior="delete", lock_delay=0)
    made = time.monotonic()
    assert nodes.next.kv.put("expires", "", acquire=session)
    index = nodes.next.kv.get("expires")[0]
    _, gone = nodes.next.kv.get("expires", index=index, wait="40s")
    lived = time.monotonic() - made
    assert gone is None and 10 <= lived <= 21, f"the session lived {lived:.1f} s, {gone}"


def blocking(nodes):
    nodes.next.kv.put("watched/one", "1")
    index, _ = nodes.next.kv.get("watched/one")
    for client in nodes.clients:
        assert until("the write to be seen", lambda: client.kv.get("watched/one", consistency="stale")[1])
    begun = time.monotonic()
    same, _ = nodes.next.kv.get("watched/one", index=index, wait="1s")
    assert same == index and 1 <= time.monotonic() - begun < 3, "the wait is over and nothing has changed"

    on_each = [Background(lambda c=c: c.kv.get("watched/one", index=index, wait="30s")) for c in nodes.clients]
    below = nodes.next.kv.get("watched/", recurse=True)[0]
    on_prefix = [
        Background(lambda c=c: c.kv.get("watched/", recurse=True, index=below, wait="30s")) for c in nodes.clients
    ]
    nodes.next.kv.put("elsewhere", "1")
    # Another key's write wakes nobody: whoever was woken by it would come back with the old value.
    nodes.next.kv.put("watched/one", "2")
    for waiting in on_each:
        later, entry = waiting.result()
        assert int(later) > int(index) and entry["Value"] == b"2", entry
    for waiting in on_prefix:
        assert waiting.result()[1][0]["Value"] == b"2"
    index = nodes.next.kv.get("watched/", recurse=True)[0]
    waiting = Background(lambda: nodes.next.kv.get("watched/", recurse=True, index=index, wait="30s"))
    nodes.next.kv.delete("watched/one")
    later, entries = waiting.result()
    assert int(later) > int(index) and entries is None
    index, _ = nodes.next.kv.get("watched/new")
    waiting = Background(lambda: nodes.next.kv.get("watched/new", index=index, wait="30s"))
    nodes.next.kv.put("watched/new", "born")
    assert waiting.result()[1]["Value"] == b"born"


def transactions(nodes):
    # py-consul sends no token with transactions; a node's certificate is as good as one.
    node = nodes.cluster["nodes"][0]
    bare = nodes.client(node)
    trusted = nodes.client(node, cert=nodes.cluster["certificate"])
    encoded = lambda text: base64.b64encode(text.encode()).decode()
    write = lambda key, value: {"KV": {"Verb": "set", "Key": key, "Value": encoded(value)}}
    raises(consul.exceptions.ACLPermissionDenied, "Permission denied", lambda: bare.txn.put([write("t/a", "1")]))
    done = trusted.txn.put([write("t/a", "1"), write("t/b", "2")])
    indexes = {row["KV"]["ModifyIndex"] for row in done["Results"]}
    assert done["Errors"] is None and len(indexes) == 1, done
    absent = {"KV": {"Verb": "check-not-exists", "Key": "t/a"}}
    raises(consul.exceptions.ClientError, "409", lambda: trusted.txn.put([write("t/a", "9"), absent]))
    assert nodes.next.kv.get("t/a")[1]["Value"] == b"1", "nothing of a failed transaction is applied"
    read = trusted.txn.put([{"KV": {"Verb": "get-tree", "Key": "t/"}}])
    assert [base64.b64decode(row["KV"]["Value"]) for row in read["Results"]] == [b"1", b"2"], read
    many = [write("t/many", str(number)) for number in range(65)]
    raises(consul.exceptions.ClientError, "too many operations", lambda: trusted.txn.put(many))


def tokens(nodes):
    address = nodes.cluster["nodes"][1]
    nobody, wrong = nodes.client(address), nodes.client(address, token="6ff1c4f8-1bf4-4b7c-9f3e-6a4d1a0d6d50")
    denied = consul.exceptions.ACLPermissionDenied
    raises(denied, "Permission denied", lambda: nobody.kv.get("a/b"))
    raises(denied, "Permission denied", lambda: nobody.kv.put("a/b", "x"))
    raises(denied, "Permission denied", lambda: nobody.session.create())
    raises(denied, "ACL not found", lambda: wrong.kv.get("a/b"))
    assert nobody.kv.get("a/", recurse=True)[1] is None
    assert nobody.session.list()[1] == [] and nobody.catalog.nodes()[1] == []
    # What the cluster's own status shows to everybody.
    assert nobody.status.leader() and len(nobody.status.peers()) == 3
    own = nobody.agent.self()
    assert own["Config"]["NodeName"] == address["name"] and own["Config"]["Server"], own["Config"]
    assert own["Stats"]["raft"]["num_peers"] == "2", own["Stats"]["raft"]
    names = {member["Name"] for member in nobody.agent.members() if member["Status"] == 1}
    assert names == {node["name"] for node in nodes.cluster["nodes"]}, names
    assert nobody.kv.get("a/b", token=nodes.cluster["token"])[1]["Value"] == b"hello"


def catalog(nodes):
    names = sorted(node["name"] for node in nodes.cluster["nodes"])
    _, listed = nodes.next.catalog.nodes()
    assert sorted(node["Node"] for node in listed) == names, listed
    assert nodes.next.catalog.datacenters() == ["dc1"]
    assert "consul" in nodes.next.catalog.services()[1]
    _, own = nodes.next.health.service("consul", passing=True)
    assert sorted(row["Node"]["Node"] for row in own) == names, own

    agent = nodes.clients[2].agent
    check = consul.Check.ttl("3s")
    tags = ["blue", "first"]
    agent.service.register("web", service_id="web/1", address="10.1.2.3", port=8080, tags=tags, check=check)
    assert "web/1" in agent.services() and "web/1" not in nodes.clients[0].agent.services()
    _, found = nodes.next.catalog.service("web", tag="blue")
    facts = found[0]
    assert (facts["Node"], facts["ServiceID"], facts["ServicePort"]) == (names[2], "web/1", 8080), facts
    assert nodes.next.catalog.service("web", tag="red")[1] == []
    assert nodes.next.catalog.services()[1]["web"] == tags
    assert "web/1" in nodes.next.catalog.node(names[2])[1]["Services"]
    assert nodes.next.catalog.node("nobody")[1] is None

    index, passing = nodes.next.health.service("web", passing=True)
    assert passing == [], "critical until it has said otherwise"
    waiting = Background(lambda: nodes.next.health.service("web", passing=True, index=index, wait="20s"))
    assert agent.check.ttl_pass("service:web/1", notes="fine")
    assert waiting.result()[1][0]["Service"]["ID"] == "web/1"
    assert nodes.next.health.checks("web")[1][0]["Output"] == "fine"
    assert agent.check.ttl_warn("service:web/1")
    assert nodes.next.health.state("warning")[1][0]["CheckID"] == "service:web/1"
    agent.check.ttl_pass("service:web/1", notes="last words")
    index, _ = nodes.next.health.checks("web")
    _, lapsed = nodes.next.health.checks("web", index=index, wait="20s")
    assert lapsed[0]["Status"] == "critical" and "last words" in lapsed[0]["Output"], lapsed
    critical = [check["CheckID"] for check in nodes.next.health.node(names[2])[1] if check["Status"] == "critical"]
    assert critical == ["service:web/1"], critical
    raises(consul.base.ConsulException, "TTL", lambda: agent.check.ttl_pass("nothing"))

    assert agent.service.maintenance("web/1", True, reason="tests")
    assert "tests" in [check["Notes"] for check in nodes.next.health.checks("web")[1]]
    assert agent.service.deregister("web/1")
    assert "web" not in nodes.next.catalog.services()[1] and nodes.next.health.checks("web")[1] == []

    # An HTTP check is asked by the node that the service was registered with.
    url = f"https://{nodes.cluster['nodes'][0]['address']}:8500/v1/status/leader"
    agent.service.register("probed", check={"http": url, "interval": "1s", "tlsskipverify": True})
    until("the probe", lambda: nodes.next.health.service("probed", passing=True)[1])
    agent.service.deregister("probed")

    # A session that depends on a check ends with it.
    agent.service.register("held", check=consul.Check.ttl("60s"))
    agent.check.ttl_pass("service:held")
    session = nodes.clients[2].session.create(checks=["serfHealth", "service:held"], behavior="delete", lock_delay=0)
    assert nodes.next.kv.put("held", "", acquire=session)
    agent.check.ttl_fail("service:held")
    assert nodes.next.kv.get("held")[1] is None and nodes.next.session.info(session)[1] is None
    agent.service.deregister("held")

    external = {"Service": "printer", "ID": "p1", "Port": 631}
    bare = nodes.client(nodes.cluster["nodes"][0])
    token = nodes.cluster["token"]
    assert bare.catalog.register("outside", "192.0.2.7", service=external, token=token)
    assert nodes.next.catalog.service("printer")[1][0]["Address"] == "192.0.2.7"
    assert bare.catalog.deregister("outside", token=token)
    assert nodes.next.catalog.service("printer")[1] == []


def operators(nodes):
    leader, peers = nodes.next.status.leader(), nodes.next.status.peers()
    assert leader in peers and len(peers) == 3, (leader, peers)
    health = nodes.next.operator.autopilot_health()
    assert health["Healthy"] and health["FailureTolerance"] == 1, health
    trusted = nodes.client(nodes.cluster["nodes"][0], cert=nodes.cluster["certificate"])
    servers = trusted.operator.raft_config()["Servers"]
    assert [server["Address"] for server in servers if server["Leader"]] == [leader], servers
    assert "consul_raft_apply" in nodes.next.agent.metrics(format_prometheus=True)

    # What a snapshot holds comes back, and what was written after it is gone.
    nodes.next.kv.put("restored/old", "kept")
    saved = nodes.next.snapshot.save()
    nodes.next.kv.put("restored/old", "changed")
    nodes.next.kv.put("restored/new", "late")
    assert nodes.next.snapshot.restore(saved)
    _, entries = nodes.next.kv.get("restored/", recurse=True)
    assert [(entry["Key"], entry["Value"]) for entry in entries] == [("restored/old", b"kept")], entries
    raises(consul.base.ConsulException, "failed to decompress", lambda: nodes.next.snapshot.restore(b"garbage"))
    assert nodes.next.kv.get("restored/old")[1]["Value"] == b"kept"


def calls(cluster):
    nodes = Nodes(cluster)
    running = Background(lambda: expiry(Nodes(cluster)))
    for part in [keys, check_and_set, locks, blocking, transactions, tokens, catalog]:
        part(nodes)
        print("done:", part.__name__, flush=True)
    running.result(60)
    print("done: expiry", flush=True)
    # Last: a restore also takes back what others do at the same time.
    operators(nodes)
    print("done: operators", flush=True)


def leader_loss(cluster):
    nodes = Nodes(cluster)
    leader = nodes.next.status.leader().rpartition(":")[0]
    lost = next(place for place, node in enumerate(cluster["nodes"]) if node["address"] == leader)
    one, other = [client for place, client in enumerate(nodes.clients) if place != lost]

    # Made through the node that dies: a session belongs to the cluster, not to whoever answered.
    session = nodes.clients[lost].session.create(checks=[], behavior="delete", ttl=10, lock_delay=0)
    assert nodes.clients[lost].kv.put("lost/lock", "held", acquire=session)
    rival = other.session.create(checks=[], ttl=60, lock_delay=0)
    one.kv.put("lost/watched", "before")
    index = one.kv.get("lost/watched")[0]
    below = other.kv.get("lost/", recurse=True)[0]
    parked = [
        Background(lambda: one.kv.get("lost/watched", index=index, wait="60s")),
        Background(lambda: other.kv.get("lost/", recurse=True, index=below, wait="60s")),
    ]
    print("parked", cluster["nodes"][lost]["name"], flush=True)
    assert sys.stdin.readline().strip() == "killed"
    killed = time.monotonic()

    # Not one call may fail: whoever asks meanwhile waits for the next leader.
    assert other.kv.put("lost/watched", "after")
    print(f"written {1000 * (time.monotonic() - killed):.0f} ms after the loss", flush=True)
    for waiting in parked:
        _, answer = waiting.result()
        entry = answer if isinstance(answer, dict) else next(e for e in answer if e["Key"] == "lost/watched")
        assert entry["Value"] == b"after", entry
    assert other.kv.put("lost/lock", "stolen", acquire=rival) is False
    assert one.kv.get("lost/lock")[1]["Session"] == session
    # Renewed for longer than it would live without, with the next leader's clock.
    index, end = one.kv.get("lost/lock")[0], time.monotonic() + 22
    while time.monotonic() < end:
        assert one.session.renew(session)["ID"] == session
        _, held = one.kv.get("lost/lock", index=index, wait="2s")
        assert held["Session"] == session, held
    renewed = time.monotonic()
    until("the session's end", lambda: other.kv.put("lost/lock", "mine", acquire=rival))
    lived = time.monotonic() - renewed
    assert 8 <= lived <= 23, f"the session lived {lived:.1f} s"


if __name__ == "__main__":
    {"calls": calls, "leader_loss": leader_loss}[sys.argv[1]](json.loads(sys.argv[2]))
