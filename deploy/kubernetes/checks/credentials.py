"""What deploy/kubernetes/credentials makes: the Secrets that pods mount, with names that workers look for."""

import base64
import os
import re
import subprocess

import yaml

from . import rules
from .command import expanded, flags


def made(script, programs):
    """What the script prints, as objects; raises CalledProcessError where it fails."""
    path = f"{programs['medley'].resolve().parent}:{os.environ['PATH']}"
    said = subprocess.run([script], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}).stdout
    return [it for it in yaml.safe_load_all(said) if it]


def findings(secrets, pods):
    """Every Secret that is known to come from the script comes from it, and is for the name that workers call."""
    known = {name for kind, name in rules.FOREIGN if kind == "Secret"}
    there = {it["metadata"]["name"]: it.get("data") or {} for it in secrets}
    if set(there) != known:
        yield f"makes {sorted(there)}; manifests mount {sorted(known)}"
        return
    for name, files in there.items():
        if "ca.key" in files:
            yield f"Secret {name}: has the authority's key, which nobody needs on a cluster"
        needed = {"tls.crt", "tls.key", "tokens"} if "coordinator" in name else {"ca.crt", "token"}
        if needed - set(files):
            yield f"Secret {name}: has no {', '.join(sorted(needed - set(files)))}"
    names = _dns_names(there["medley-coordinator-credentials"].get("tls.crt", ""))
    for pod in pods:
        for container in pod.containers():
            host = flags(expanded(pod, container)[1]).get("coordinator", "").rsplit(":", 1)[0]
            if host and not names(host):
                yield f"Secret medley-coordinator-credentials: is not made out to {host}, where {pod.owner} looks"


def _dns_names(encoded):
    """Whether a certificate, in PEM and base64, is for a name: how DER writes one, without a reader of DER."""
    text = base64.b64decode(encoded).decode()
    found = re.search("-----BEGIN CERTIFICATE-----(.*?)-----END", text, re.DOTALL)
    der = base64.b64decode(found[1]) if found else b""
    return lambda name: bytes([0x82, len(name)]) + name.encode() in der
