"""What kustomize makes of a folder; and the folders that there are."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent.parent

# Every component on everything that it is for: component(s), base.
COMBINATIONS = [
    *[(("gpu",), base) for base in ("base", "jobset", "trainer")],
    *[(("gpu", "rdma"), base) for base in ("base", "jobset", "trainer")],
    *[((name,), base) for name in ("hub", "prometheus", "tls-cert-manager") for base in ("base", "jobset", "trainer")],
    *[(("kueue",), base) for base in ("jobset", "trainer", "overlays/single-node-multi-gpu")],
    (("gang",), "base"),
    (("prometheus",), "overlays/single-node-multi-gpu"),
    (("hub", "kueue", "prometheus", "rdma", "tls-cert-manager"), "overlays/multi-node"),
]
# What is for GPUs as it is shipped, and what makes anything be for GPUs.
FOR_GPUS = {"overlays/multi-node", "overlays/single-node-multi-gpu", "gpu"}


class CannotRender(Exception):
    """kustomize refuses the folder."""


def renderer():
    """The command that renders a folder, with its version; None where there is none that knows components."""
    for command, version in ((["kustomize", "build"], ["kustomize", "version"]),
                             (["kubectl", "kustomize"], ["kubectl", "version", "--client", "-o", "json"])):
        if shutil.which(command[0]):
            said = subprocess.run(version, capture_output=True, text=True).stdout
            if command[0] == "kubectl":
                said = json.loads(said or "{}").get("kustomizeVersion", "v0")
            number = said.strip().rsplit("/", 1)[-1].split(" ")[0].lstrip("v")
            if tuple(int(part) for part in number.split(".")[:2] if part.isdigit()) >= (4, 1):
                return command, f"kustomize {number} by {command[0]}"
    return None


def render(command, folder):
    """The objects that `folder` stands for."""
    made = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    if made.returncode != 0:
        raise CannotRender(made.stderr.strip())
    return [it for it in yaml.safe_load_all(made.stdout) if it]


def folders():
    """What is shipped to be applied as it is."""
    own = ["base", "jobset", "trainer", "storage", "namespace"]
    return own + sorted(str(it.relative_to(HERE)) for it in (HERE / "overlays").iterdir() if it.is_dir())


def combined(command, components, base):
    """The objects of `base` with `components`."""
    with tempfile.TemporaryDirectory() as folder:
        at = os.path.relpath(HERE, os.path.realpath(folder))
        text = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [f"{at}/{base}"],
                "components": [f"{at}/components/{name}" for name in components], "sortOptions": {"order": "fifo"}}
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(text))
        return render(command, os.path.realpath(folder))


def oldest(components):
    """The oldest Kubernetes that components are for, where one says so: `# needs: kubernetes 1.37`."""
    found = None
    for name in components:
        for line in (HERE / "components" / name / "kustomization.yaml").read_text().splitlines():
            if line.startswith("# needs: kubernetes "):
                found = line.rsplit(" ", 1)[1]
    return found
