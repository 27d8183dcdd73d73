"""Schemas of custom resources where no CRD is at hand: models that others made from the CRDs, from PyPI.

They know every field, whether it is needed and its type; of the values that it takes, and of rules between fields, less
than a CRD does. There are none of Kueue's.
"""

import functools
import importlib

TRAINER, CERTIFICATES = "kubeflow-trainer-api==2.3.0", "cloudcoil-models-cert-manager==1.17.1.0"
MONITORS = "cloudcoil-models-prometheus-operator==0.80.1.0"
PACKAGES = [TRAINER, CERTIFICATES, MONITORS]

_MODULES = {TRAINER: "kubeflow_trainer_api.models", CERTIFICATES: "cloudcoil.models.cert_manager.v1",
            MONITORS: "cloudcoil.models.prometheus_operator.v1"}
_MODELS = {
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): (TRAINER, "JobsetV1alpha2JobSet"),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): (TRAINER, "TrainerV1alpha1TrainJob"),
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): (TRAINER, "TrainerV1alpha1TrainingRuntime"),
    ("trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime"): (TRAINER, "TrainerV1alpha1ClusterTrainingRuntime"),
    ("cert-manager.io/v1", "Certificate"): (CERTIFICATES, "Certificate"),
    ("cert-manager.io/v1", "Issuer"): (CERTIFICATES, "Issuer"),
    ("monitoring.coreos.com/v1", "PodMonitor"): (MONITORS, "PodMonitor"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): (MONITORS, "ServiceMonitor"),
}


@functools.cache
def schema(version, kind):
    """A JSON schema in which no object has other fields than those that are named, and its package; None, None if unknown."""
    if (version, kind) not in _MODELS:
        return None, None
    package, name = _MODELS[version, kind]
    made = getattr(importlib.import_module(_MODULES[package]), name).model_json_schema(by_alias=True)
    for name, part in made["$defs"].items():
        # Two types whose model is a class of its own, which says what it holds in code.
        if name.endswith("IntOrString"):
            made["$defs"][name] = {"type": ["integer", "string"]}
        elif name.endswith("Quantity"):
            made["$defs"][name] = {"type": ["number", "string"]}
        elif "properties" in part:
            part.setdefault("additionalProperties", False)
    made["properties"]["metadata"] = {"type": "object"}
    return {**made, "additionalProperties": False}, package
