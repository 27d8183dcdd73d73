"""Objects against Kubernetes' own schemas, and custom ones against their CRDs; strictly: an unknown field is wrong."""

import functools
import json
from pathlib import Path

import yaml

from . import models

# The oldest and the newest that are supported: 1.33 is the oldest in which all that `base` uses is stable
# (backoffLimitPerIndex, podFailurePolicy, gRPC probes).
VERSIONS = ("1.33", "1.37")


def native(thing, version):
    """What is wrong with a built-in object; None where it is none."""
    return _native(json.dumps(thing), version)


@functools.cache
def _native(text, version):
    import kubernetes_validate as kubernetes

    thing = json.loads(text)
    try:
        kubernetes.validate(thing, version, strict=True)
    except kubernetes.SchemaNotFoundError:
        return None
    except kubernetes.ValidationError as error:
        where = ".".join(str(part) for part in error.path)
        return [f"{thing['kind']} {thing['metadata']['name']}: Kubernetes {version}: {where}: {error.message[:300]}"]
    return []


def definitions(folder):
    """The CRDs in a folder, by group, version and kind."""
    found = {}
    for path in sorted(Path(folder).glob("*.y*ml")):
        for crd in yaml.safe_load_all(path.read_text()):
            if crd and crd.get("kind") == "CustomResourceDefinition":
                spec = crd["spec"]
                for version in spec["versions"]:
                    key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                    found[key] = closed(version["schema"]["openAPIV3Schema"])
                    found[key]["properties"]["metadata"] = {"type": "object"}
    return found


def custom(thing, crds):
    """What is wrong with a custom object, by its CRD or else by a model of it, and which model; None where there is neither."""
    import jsonschema

    schema, model = crds.get((thing["apiVersion"], thing["kind"])), None
    if schema is None:
        schema, model = models.schema(thing["apiVersion"], thing["kind"])
    if schema is None:
        return None, None
    about = f"{thing['kind']} {thing['metadata']['name']}: {model or 'its CRD'}"
    return [f"{about}: {'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"
            for error in jsonschema.Draft7Validator(schema).iter_errors(thing)], model


def jobs(thing):
    """The Jobs that a JobSet, or the JobSet of a runtime, makes: Kubernetes' own schemas say more of them."""
    spec = thing.get("spec") or {}
    if thing["kind"] in ("TrainingRuntime", "ClusterTrainingRuntime"):
        spec = spec["template"]["spec"]
    for replicated in spec.get("replicatedJobs", []):
        template = replicated["template"]
        name = f"{thing['metadata']['name']}-{replicated['name']}"
        yield {"apiVersion": "batch/v1", "kind": "Job", **template, "metadata": {**template.get("metadata", {}), "name": name}}


def closed(schema):
    """A CRD's schema in which no object has other fields than those that are named."""
    if isinstance(schema, dict):
        if schema.pop("x-kubernetes-int-or-string", False):
            schema.pop("type", None)
            schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        if schema.pop("nullable", False) and isinstance(schema.get("type"), str):
            schema["type"] = [schema["type"], "null"]
        if isinstance(schema.get("properties"), dict):
            for part in schema["properties"].values():
                closed(part)
            if not schema.get("x-kubernetes-preserve-unknown-fields"):
                schema.setdefault("additionalProperties", False)
        # The branches of allOf, anyOf and oneOf refine what is closed here: they stay open.
        for key in ("items", "additionalProperties"):
            closed(schema.get(key))
    return schema
