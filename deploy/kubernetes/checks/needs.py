"""What a pod of Medley must have: where it is missing, Kubernetes says nothing, and a run suffers later."""

from . import quantity
from .command import expanded, flags


def needs(pods):
    """Probes, shared memory, results that stay, GPUs that are there."""
    for pod in (it for it in pods if it.is_medley):
        volumes = pod.volumes()
        for container in pod.spec["containers"]:
            where, words = f"{pod.owner}: {container['name']}", expanded(pod, container)[1]
            serves = words[:1] in (["serve"], ["train"])
            mounted = {it["mountPath"]: volumes.get(it["name"], {}) for it in container.get("volumeMounts", [])}
            if serves:
                yield from _probes(where, container)
                yield from _results(where, words, mounted)
            if computes(pod, words):
                shared = mounted.get("/dev/shm", {}).get("emptyDir") or {}
                if shared.get("medium") != "Memory":
                    yield f"{where}: has no volume in memory at /dev/shm, and NCCL needs more than the 64 MiB of a pod"


def computes(pod, words):
    """Whether a container is a worker, or starts workers."""
    return pod.role == "worker" or words[:1] == ["train"]


def _probes(where, container):
    # A readiness probe's question: it fails while data are read, for which nobody is to be killed.
    if "grpc" not in (container.get("readinessProbe") or {}):
        yield f"{where}: has no readinessProbe by gRPC, so nobody learns when workers can join"
    alive = ((container.get("livenessProbe") or {}).get("httpGet") or {}).get("path")
    if alive != "/healthz":
        yield f"{where}: its livenessProbe does not ask /healthz, which alone says whether the process works"


def _results(where, words, mounted):
    folder = flags(words).get("output_dir", "")
    at = max((it for it in mounted if folder == it or folder.startswith(it + "/")), key=len, default=None)
    if at is not None and "persistentVolumeClaim" not in mounted[at]:
        yield f"{where}: --output_dir={folder} lies in no claim: checkpoints and results go with the pod"


def gpus(pods):
    """All that computes has GPUs: for folders that are for GPUs."""
    for pod in (it for it in pods if it.is_medley):
        for container in pod.spec["containers"]:
            limits = (container.get("resources") or {}).get("limits") or {}
            if computes(pod, expanded(pod, container)[1]) and not quantity.parse(limits.get("nvidia.com/gpu", 0)):
                yield f"{pod.owner}: {container['name']} has no limit for nvidia.com/gpu in what is for GPUs"
