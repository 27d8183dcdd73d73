"""Pod Security "restricted", and what Medley asks beyond it."""

import re

PRIVILEGED = "medley.dev/pod-security"
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
TOKENS = {"MEDLEY_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
"""Variables whose value is a secret."""


def restricted(pods):
    """Pod Security "restricted", and what Medley asks beyond it."""
    for pod in pods:
        spec, security = pod.spec, pod.spec.get("securityContext") or {}
        added = {"IPC_LOCK"} if pod.annotations.get(PRIVILEGED) == "privileged" else set()
        wants = [
            (not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), "uses the host's namespaces"),
            (security.get("runAsNonRoot") is True and security.get("runAsUser") != 0, "may run as root"),
            (bool(security.get("fsGroup")), "has no fsGroup, so it may not read its secrets"),
            ((security.get("seccompProfile") or {}).get("type") in ("RuntimeDefault", "Localhost"), "has no seccompProfile"),
            (not security.get("sysctls"), "sets sysctls"),
            (spec.get("automountServiceAccountToken") is False, "mounts a service account's token"),
            (spec.get("enableServiceLinks") is False, "has every Service of its namespace in its environment"),
            ("terminationGracePeriodSeconds" in spec, "has no terminationGracePeriodSeconds"),
            (not pod.is_medley or spec.get("terminationGracePeriodSeconds", 0) >= 60, "has no time to save"),
        ]
        yield from (f"{pod.owner}: {wrong}" for holds, wrong in wants if not holds)
        for volume in pod.volumes().values():
            kinds = set(volume) - {"name"}
            if len(kinds) != 1 or not kinds <= VOLUMES:
                yield f"{pod.owner}: volume {volume['name']} is {', '.join(sorted(kinds)) or 'nothing'}"
        for container in pod.containers():
            own, where = container.get("securityContext") or {}, f"{pod.owner}: {container['name']}"
            capabilities = own.get("capabilities") or {}
            wants = [
                (own.get("allowPrivilegeEscalation") is False, "may gain privileges"),
                (own.get("readOnlyRootFilesystem") is True, "can write to its image's files"),
                (not own.get("privileged"), "is privileged"),
                (own.get("runAsNonRoot") is not False and own.get("runAsUser") != 0, "may run as root"),
                ((own.get("seccompProfile") or {}).get("type") != "Unconfined", "has no seccompProfile"),
                (own.get("procMount", "Default") == "Default", "sees all of /proc"),
                (not any("hostPort" in port for port in container.get("ports", [])), "takes a port of its node"),
                ("ALL" in capabilities.get("drop", []), "does not drop all capabilities"),
                (set(capabilities.get("add", [])) <= added, f"adds capabilities: {capabilities.get('add')}"),
                (bool(re.search(r":[^/:]+$", container["image"])) and not container["image"].endswith(":latest"),
                 f"has an image without a version: {container['image']}"),
                ((container.get("command") or [""])[0] not in ("sh", "bash", "/bin/sh", "/bin/bash"),
                 "is started by a shell, which keeps SIGTERM for itself"),
            ]
            yield from (f"{where} {wrong}" for holds, wrong in wants if not holds)


def secrets(pods):
    """Secrets are files: an environment is inherited, and shown by whoever describes the pod."""
    for pod in pods:
        for container in pod.containers():
            where = f"{pod.owner}: {container['name']}"
            for source in container.get("envFrom", []):
                if "secretRef" in source:
                    yield f"{where} has all of Secret {source['secretRef']['name']} in its environment; mount it as files"
            for variable in container.get("env", []):
                if "secretKeyRef" in (variable.get("valueFrom") or {}) or variable["name"] in TOKENS:
                    yield f"{where}: {variable['name']} is a secret in the environment; mount it as a file"
