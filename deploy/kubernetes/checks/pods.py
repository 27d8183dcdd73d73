"""The pods that a set of objects makes, whatever kind of object makes them."""

from dataclasses import dataclass, field


@dataclass
class Pod:
    """The pods of one template."""

    owner: str
    """Kind and name of the object, for messages."""
    name: str
    """What the names of its pods begin with."""
    labels: dict
    annotations: dict
    spec: dict
    job: dict | None
    """The Job's spec around it, if any."""
    count: int
    addresses: set = field(default_factory=set)
    """Names that DNS has for its pods, within their namespace."""
    coordinator: str | None = None
    """What JobSet's annotation says where the coordinator is."""

    @property
    def role(self):
        return self.labels.get("app.kubernetes.io/component")

    @property
    def is_medley(self):
        return self.labels.get("app.kubernetes.io/name") == "medley"

    def containers(self):
        return self.spec.get("initContainers", []) + self.spec.get("containers", [])

    def volumes(self):
        return {volume["name"]: volume for volume in self.spec.get("volumes", [])}

    def ports(self):
        """Container ports by number, with their names."""
        return {port["containerPort"]: port.get("name") for c in self.containers() for port in c.get("ports", [])}

    def selected_by(self, selector):
        """By a label selector of the API; the empty one selects all."""
        labels = self.labels
        if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
            return False
        for term in selector.get("matchExpressions") or []:
            value, values = labels.get(term["key"]), term.get("values") or []
            holds = {"In": value in values, "NotIn": value not in values, "Exists": value is not None,
                     "DoesNotExist": value is None}[term["operator"]]
            if not holds:
                return False
        return True


def of(objects):
    """All pods that `objects` make."""
    pods = []
    for thing in objects:
        kind, name, spec = thing["kind"], thing["metadata"]["name"], thing.get("spec") or {}
        if kind == "Job":
            pods.append(_of_job(f"Job {name}", name, spec))
        elif kind == "Pod":
            meta = thing["metadata"]
            pods.append(Pod(f"Pod {name}", name, meta.get("labels") or {}, meta.get("annotations") or {}, spec, None, 1))
        elif kind == "JobSet":
            pods += _of_jobset(f"JobSet {name}", name, spec, {})
        elif kind in ("TrainingRuntime", "ClusterTrainingRuntime"):
            jobs = [it for it in objects if it["kind"] == "TrainJob" and it["spec"]["runtimeRef"]["name"] == name]
            for job in jobs:
                pods += _of_jobset(f"{kind} {name}", job["metadata"]["name"], spec["template"]["spec"], {
                    "nodes": (job["spec"].get("trainer") or {}).get("numNodes") or spec["mlPolicy"].get("numNodes")})
    return pods


def _of_job(owner, name, spec):
    template = spec["template"]
    meta = template.get("metadata") or {}
    count = spec.get("completions", spec.get("parallelism", 1))
    return Pod(owner, name, meta.get("labels") or {}, meta.get("annotations") or {}, template["spec"], spec, count)


def _of_jobset(owner, name, spec, train):
    network, pods = spec.get("network") or {}, []
    subdomain = network.get("subdomain", name)
    chosen = spec.get("coordinator")
    coordinator = chosen and "{}-{}-{}-{}.{}".format(
        name, chosen["replicatedJob"], chosen.get("jobIndex", 0), chosen.get("podIndex", 0), subdomain)
    for replicated in spec["replicatedJobs"]:
        labels = (replicated["template"].get("metadata") or {}).get("labels") or {}
        pod = _of_job(f"{owner}/{replicated['name']}", f"{name}-{replicated['name']}", replicated["template"]["spec"])
        if train.get("nodes") and labels.get("trainer.kubeflow.org/trainjob-ancestor-step") == "trainer":
            pod.count = train["nodes"]
        replicas = replicated.get("replicas", 1)
        if network.get("enableDNSHostnames", True):
            pod.addresses = {f"{pod.name}-{job}-{index}.{subdomain}" for job in range(replicas)
                             for index in range(pod.count)}
        pod.count *= replicas
        pod.coordinator = coordinator
        pods.append(pod)
    return pods
