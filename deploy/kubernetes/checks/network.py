"""What NetworkPolicies let through, and whether that is what a run needs."""


def flows(objects, pods):
    """Nothing but what is needed gets through, and all of that does."""
    policies = [it["spec"] for it in objects if it["kind"] == "NetworkPolicy"]
    stranger = None
    for pod in pods:
        for way in ("Ingress", "Egress"):
            if not any(pod.selected_by(it["podSelector"]) and way in it["policyTypes"] for it in policies):
                yield f"{pod.owner}: no NetworkPolicy denies {way.lower()}"
        if pod.is_medley and allows(policies, pod, stranger, 29400, "Ingress"):
            yield f"{pod.owner}: any pod of the namespace reaches port 29400"
    workers = [pod for pod in pods if pod.role == "worker"]
    for worker in workers:
        for other in workers:
            for port in (1024, 45678, 65535):
                if not _connects(policies, worker, other, port):
                    yield f"{worker.owner}: does not reach port {port} of {other.owner}; workers sum at any port"
        for pod in (it for it in pods if it.role == "coordinator"):
            port = {name: number for number, name in pod.ports().items()}.get("grpc")
            if port and not _connects(policies, worker, pod, port):
                yield f"{worker.owner}: does not reach port {port} of {pod.owner}"
        for protocol in ("UDP", "TCP"):
            if not allows(policies, worker, stranger, 53, "Egress", protocol):
                yield f"{worker.owner}: does not reach a DNS by {protocol}"


def _connects(policies, source, target, port):
    return allows(policies, source, target, port, "Egress") and allows(policies, target, source, port, "Ingress")


def allows(policies, pod, peer, port, way, protocol="TCP"):
    """Whether `pod` may be reached by, or reach, `peer` (None: somebody of no known labels)."""
    over = [it for it in policies if pod.selected_by(it["podSelector"]) and way in it["policyTypes"]]
    key = "from" if way == "Ingress" else "to"
    rules = [rule for it in over for rule in it.get(way.lower()) or []]
    return not over or any(_peer(rule.get(key), peer) and _port(rule.get("ports"), port, protocol) for rule in rules)


def _peer(selectors, peer):
    if not selectors:
        return True
    plain = [it["podSelector"] for it in selectors if "podSelector" in it and "namespaceSelector" not in it]
    return peer is not None and any(peer.selected_by(it) for it in plain)


def _port(allowed, port, protocol):
    if not allowed:
        return True
    return any(it.get("protocol", "TCP") == protocol and
               ("port" not in it or it["port"] <= port <= it.get("endPort", it["port"])) for it in allowed)
