"""What no schema can say: that objects agree with each other, and with Medley. Each rule yields what is wrong."""

import re
import tomllib

from . import needs, network, quantity, security
from .command import expanded, flags

# What is made outside: by deploy/kubernetes/credentials and deploy/kubernetes/storage.
FOREIGN = {("Secret", "medley-coordinator-credentials"), ("Secret", "medley-worker-credentials"),
           ("PersistentVolumeClaim", "medley-data"), ("PersistentVolumeClaim", "medley-output")}


def all_rules(objects, pods, codes):
    """Every finding on one set of objects."""
    rules = [ports(objects, pods), names(objects, pods), selectors(objects, pods), network.flows(objects, pods),
             references(objects, pods), security.restricted(pods), security.secrets(pods), needs.needs(pods),
             resources(pods), exits(pods, codes), workers(objects, pods), order(objects), images(pods)]
    return [finding for rule in rules for finding in rule]


def run_of(objects):
    """The flags in run.toml."""
    for thing in objects:
        if thing["kind"] == "ConfigMap" and "run.toml" in (thing.get("data") or {}):
            return tomllib.loads(thing["data"]["run.toml"])
    return {}


def ports(objects, pods):
    """Ports and their names are the same wherever they are named."""
    for pod in pods:
        declared = pod.ports()
        numbers = {name: number for number, name in declared.items()}
        for container in pod.containers():
            given = flags(expanded(pod, container)[1])
            for flag, name in (("listen", "grpc"), ("http_listen", "http")):
                if flag in given and declared.get(_port(given[flag])) != name:
                    yield f"{pod.owner}: --{flag}={given[flag]}, but no container port of that number is named {name}"
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for action in (container.get(probe) or {}).values():
                    port = action.get("port") if isinstance(action, dict) else None
                    if port is not None and port not in declared and port not in numbers:
                        yield f"{pod.owner}: {probe} asks port {port}, which is no container port"
        scraped = pod.annotations.get("prometheus.io/port")
        if scraped is not None and declared.get(int(scraped)) != "http":
            yield f"{pod.owner}: prometheus.io/port is {scraped}, which is not the container port named http"
    for thing in objects:
        where = f"{thing['kind']} {thing['metadata']['name']}"
        if thing["kind"] == "Service":
            for port in thing["spec"].get("ports", []):
                target = port.get("targetPort", port["port"])
                for pod in (it for it in pods if it.selected_by({"matchLabels": thing["spec"]["selector"]})):
                    declared = pod.ports()
                    number = target if target in declared else {n: p for p, n in declared.items()}.get(target)
                    if number is None:
                        yield f"{where}: port {target} is no container port of {pod.owner}"
                    elif thing["spec"].get("clusterIP") == "None" and port["port"] != number:
                        yield f"{where}: is headless, so port {port['port']} must be the container's own, {number}"
        elif thing["kind"] in ("PodMonitor", "ServiceMonitor"):
            for end in thing["spec"].get("podMetricsEndpoints", []) + thing["spec"].get("endpoints", []):
                for pod in (it for it in pods if it.selected_by(thing["spec"]["selector"])):
                    if end.get("port") not in pod.ports().values():
                        yield f"{where}: port {end.get('port')} is no named container port of {pod.owner}"


def _port(address):
    return int(address.rsplit(":", 1)[1]) if re.fullmatch(r".*:[0-9]+", address) else None


def names(objects, pods):
    """The coordinator is where workers look for it, and its certificate has that name."""
    services = {it["metadata"]["name"]: it for it in objects if it["kind"] == "Service"}
    for pod in pods:
        for container in pod.containers():
            address = flags(expanded(pod, container)[1]).get("coordinator")
            if address is None:
                continue
            host, port = address.rsplit(":", 1)
            if host in services:
                found = [it for it in pods if it.selected_by({"matchLabels": services[host]["spec"]["selector"]})]
            else:
                found = [it for it in pods if host in it.addresses]
            serving = [it for it in found if it.ports().get(int(port)) == "grpc"]
            if not found:
                yield f"{pod.owner}: --coordinator={address}, but no Service and no pod has the name {host}"
            elif not serving or any(it.role != "coordinator" for it in found):
                yield f"{pod.owner}: --coordinator={address} leads to {found[0].owner}, which does not serve there"
            for thing in objects:
                issued = thing["kind"] == "Certificate" and thing["spec"]["secretName"] == "medley-coordinator-credentials"
                if issued and host not in thing["spec"].get("dnsNames", []):
                    yield f"Certificate {thing['metadata']['name']}: is not made out to {host}, where workers look"
        subdomain = pod.spec.get("subdomain")
        if subdomain and subdomain not in services:
            yield f"{pod.owner}: subdomain {subdomain} is the name of no Service, so its pods have no names"


def selectors(objects, pods):
    """Whatever selects pods selects some."""
    for thing in objects:
        where, spec = f"{thing['kind']} {thing['metadata']['name']}", thing.get("spec") or {}
        asked = []
        if thing["kind"] == "Service":
            asked = [{"matchLabels": spec["selector"]}]
        elif thing["kind"] == "PodMonitor":
            asked = [spec["selector"]]
        elif thing["kind"] == "NetworkPolicy":
            peers = [peer for rule in spec.get("ingress", []) for peer in rule.get("from", [])]
            peers += [peer for rule in spec.get("egress", []) for peer in rule.get("to", [])]
            asked = [spec["podSelector"]]
            asked += [it["podSelector"] for it in peers if "podSelector" in it and "namespaceSelector" not in it]
        for selector in asked:
            if not any(pod.selected_by(selector) for pod in pods):
                yield f"{where}: selects no pod with {selector}"
        own = (spec.get("selector") or {}).get("matchLabels") if thing["kind"] == "Job" else None
        if own:
            yield f"{where}: has a selector, which is Kubernetes' to choose"


def references(objects, pods):
    """What is mounted or read is there, or known to come from elsewhere."""
    there = {(it["kind"], it["metadata"]["name"]): it for it in objects}
    for thing in objects:
        if thing["kind"] == "Certificate":
            there[("Secret", thing["spec"]["secretName"])] = {}
    for pod in pods:
        volumes = pod.volumes()
        for volume in volumes.values():
            for kind, name, optional in _sources(volume):
                if not optional and (kind, name) not in there and (kind, name) not in FOREIGN:
                    yield f"{pod.owner}: volume {volume['name']} needs {kind} {name}, which nothing makes"
        for container in pod.containers():
            for mount in container.get("volumeMounts", []):
                volume = volumes.get(mount["name"])
                if volume is None:
                    yield f"{pod.owner}: {container['name']} mounts {mount['name']}, which is no volume"
                elif "subPath" in mount and "configMap" in volume:
                    data = (there.get(("ConfigMap", volume["configMap"]["name"])) or {}).get("data") or {}
                    if mount["subPath"] not in data:
                        yield f"{pod.owner}: {volume['configMap']['name']} has no {mount['subPath']}"
            for source in container.get("envFrom", []):
                for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                    if key in source and (kind, source[key]["name"]) not in there:
                        yield f"{pod.owner}: environment from {kind} {source[key]['name']}, which nothing makes"
            mounted = [it["mountPath"] for it in container.get("volumeMounts", [])]
            for flag, value in flags(expanded(pod, container)[1]).items():
                if value.startswith("/") and not any(value == at or value.startswith(at + "/") for at in mounted):
                    yield f"{pod.owner}: --{flag}={value} lies in no volume of {container['name']}"
        if pod.role != "coordinator" and pod.is_medley and any("persistentVolumeClaim" in it for it in volumes.values()):
            yield f"{pod.owner}: a worker needs no volume claim; only the coordinator reads and writes files"


def _sources(volume):
    if "configMap" in volume:
        yield "ConfigMap", volume["configMap"]["name"], volume["configMap"].get("optional")
    if "secret" in volume:
        yield "Secret", volume["secret"]["secretName"], volume["secret"].get("optional")
    if "persistentVolumeClaim" in volume:
        yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], False
    for source in (volume.get("projected") or {}).get("sources", []):
        for key, kind in (("secret", "Secret"), ("configMap", "ConfigMap")):
            if key in source:
                yield kind, source[key]["name"], source[key].get("optional")


def resources(pods):
    """Quantities make sense, and memory has a limit that includes /dev/shm."""
    for pod in pods:
        for container in pod.containers():
            where, given = f"{pod.owner}: {container['name']}", container.get("resources") or {}
            requests, limits = given.get("requests") or {}, given.get("limits") or {}
            for kind, quantities in (("requests", requests), ("limits", limits)):
                for name, text in quantities.items():
                    number = quantity.parse(text)
                    if number is None or number <= 0:
                        yield f"{where}: {kind}.{name} is {text}; expected more than nothing"
                    elif "/" in name and number.denominator != 1:
                        yield f"{where}: {kind}.{name} is {text}; devices come whole"
            for name in set(requests) | set(limits):
                asked, most = quantity.parse(requests.get(name, 0)), quantity.parse(limits.get(name, 0))
                if "/" in name and (name not in limits or name in requests and asked != most):
                    yield f"{where}: {name} must have a limit, and the same request if any"
                elif name in requests and name in limits and asked is not None and most is not None and asked > most:
                    yield f"{where}: requests {requests[name]} of {name}, with a limit of {limits[name]}"
            if not {"cpu", "memory"} <= set(requests) or "memory" not in limits:
                yield f"{where}: needs requests for cpu and memory, and a limit for memory"
        shared = sum(quantity.parse(it["emptyDir"].get("sizeLimit", "1000Ti")) or 0 for it in pod.volumes().values()
                     if (it.get("emptyDir") or {}).get("medium") == "Memory")
        memory = sum(quantity.parse(((it.get("resources") or {}).get("limits") or {}).get("memory", 0)) or 0
                     for it in pod.spec.get("containers", []))
        if shared * 2 > memory:
            yield f"{pod.owner}: volumes in memory may take over half of its limit; give them a sizeLimit"


def images(pods):
    """Images come from a registry, all of them, or are on the nodes already, all of them."""
    named = {}
    for pod in (it for it in pods if it.is_medley):
        for container in pod.containers():
            named.setdefault("/" in container["image"], {}).setdefault(container["image"], f"{pod.owner}: {container['name']}")
    if len(named) == 2:
        pulled = next(iter(named[True]))
        for image, where in named[False].items():
            yield f"{where} has the image {image}, of no registry, beside {pulled}; `images:` needs a line for each name"


def order(objects):
    """What is refused without another object comes after it."""
    seen = set()
    for thing in objects:
        seen.add((thing["kind"], thing["metadata"]["name"]))
        if thing["kind"] == "TrainJob":
            needed = (thing["spec"]["runtimeRef"].get("kind", "ClusterTrainingRuntime"), thing["spec"]["runtimeRef"]["name"])
            if needed[0] == "TrainingRuntime" and needed not in seen:
                yield f"TrainJob {thing['metadata']['name']}: comes before its runtime; say sortOptions: {{order: fifo}}"


def exits(pods, codes):
    """podFailurePolicy follows README.md's table of exit codes."""
    # What is done, or stopped and saved, fails nothing; and a worker that broke is started again.
    fatal = {"coordinator": codes - {0, 75}, "worker": codes - {0, 70, 75}}
    for pod in pods:
        if not pod.is_medley:
            continue
        rules = ((pod.job or {}).get("podFailurePolicy") or {}).get("rules") or []
        by_code, disruption = {}, None
        for place, rule in enumerate(rules):
            on = rule.get("onExitCodes") or {}
            named = on.get("containerName")
            if named and named not in [it["name"] for it in pod.containers()]:
                yield f"{pod.owner}: podFailurePolicy names the container {named}, which is not there"
            for code in on.get("values", []):
                if on["values"] != sorted(set(on["values"])):
                    yield f"{pod.owner}: the API server wants exit codes in order, each once: {on['values']}"
                if code not in codes:
                    yield f"{pod.owner}: podFailurePolicy has exit code {code}, which README.md does not"
                by_code.setdefault(code, (place, rule["action"], on.get("operator")))
            if any(it["type"] == "DisruptionTarget" and it.get("status") == "True" for it in rule.get("onPodConditions", [])):
                disruption = (place, rule["action"])
        failing = {code for code, (_, action, operator) in by_code.items() if (action, operator) == ("FailJob", "In")}
        if failing != fatal.get(pod.role):
            yield f"{pod.owner}: the Job fails on {sorted(failing)}; expected {sorted(fatal.get(pod.role) or [])}"
        if by_code.get(75, (0, "", ""))[1:] != ("Ignore", "In"):
            yield f"{pod.owner}: exit code 75 asks to be started again; expected Ignore"
        first = min((place for place, action, _ in by_code.values() if action == "FailJob"), default=0)
        if disruption is None or disruption[1] != "Ignore" or disruption[0] > first:
            yield f"{pod.owner}: a disruption must be ignored, before any exit code is looked at"
        if pod.spec.get("restartPolicy") != "Never":
            yield f"{pod.owner}: podFailurePolicy needs restartPolicy: Never"


def workers(objects, pods):
    """The coordinator waits for as many workers as there are."""
    run = run_of(objects)
    for pod in (it for it in pods if it.role == "coordinator"):
        for container in pod.spec["containers"]:
            command, words = expanded(pod, container)
            if words[:1] != ["serve"]:
                continue
            given = {**run, **flags(words)}
            there = sum(it.count * _of_a_pod(it) for it in pods if it.role == "worker")
            if int(given.get("workers", 0)) != there:
                yield f"{pod.owner}: waits for {given.get('workers')} workers, and {there} are started"
            if there > int(given.get("lanes", 8)):
                yield f"{pod.owner}: {there} workers need --lanes {there} or more"
    for pod in pods:
        for container in pod.spec["containers"]:
            computes = pod.role == "worker" or expanded(pod, container)[1][:1] == ["train"]
            gpus = "nvidia.com/gpu" in ((container.get("resources") or {}).get("limits") or {})
            device = flags(expanded(pod, container)[1]).get("device")
            if computes and gpus != (device == "cuda"):
                yield f"{pod.owner}: --device={device} with {'a' if gpus else 'no'} limit for nvidia.com/gpu"
            if pod.role == "worker" and gpus and _of_a_pod(pod) != _gpus(container):
                yield f"{pod.owner}: {_of_a_pod(pod)} workers in a pod with {_gpus(container)} GPUs; --workers starts as many"


def _of_a_pod(pod):
    """The workers of each pod: one, or as many as --workers says; `auto` is one for each GPU."""
    container = pod.spec["containers"][0]
    number = flags(expanded(pod, container)[1]).get("workers", "1")
    if number == "auto":
        return _gpus(container) or 1
    # What is no number is for the program to refuse.
    return int(number) if number.isdigit() else 1


def _gpus(container):
    return int(quantity.parse(((container.get("resources") or {}).get("limits") or {}).get("nvidia.com/gpu", 0)) or 0)
