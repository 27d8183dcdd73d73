"""A container's command line, as its program gets it."""

import re


def expanded(pod, container):
    """A container's arguments with $(NAME) replaced, as Kubernetes does it."""
    known = {}
    for variable in container.get("env", []):
        path = ((variable.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath", "")
        if path == "metadata.annotations['jobset.sigs.k8s.io/coordinator']":
            known[variable["name"]] = pod.coordinator or ""
        elif "value" in variable:
            known[variable["name"]] = variable["value"]
    replace = lambda word: re.sub(r"\$\(([^)]+)\)", lambda it: known.get(it[1], it[0]), word)
    return [replace(word) for word in container.get("command", [])], [replace(word) for word in container.get("args", [])]


def flags(words):
    """The value of each flag in `words`."""
    return dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
