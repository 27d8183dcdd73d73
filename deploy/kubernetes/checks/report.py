"""One check of everything, and what is said of it."""

import json
import re
import shutil
import subprocess

from . import binaries, credentials, needs, pods, render, rules, schemas


MODEL_ONLY = "held against models alone, which know fewer values and rules than CRDs (--crds or MEDLEY_CRDS names a folder of them)"
"""Why a custom resource is not checked in full."""


class Report:
    """What was wrong, and what was not checked."""

    def __init__(self):
        self.wrong, self.unchecked = 0, {}

    def findings(self, what, found):
        """Says how a check of `what` went."""
        found = list(dict.fromkeys(found))
        self.wrong += len(found)
        print(f"{'WRONG' if found else 'ok':<7}{what}", *[f"         {it}" for it in found], sep="\n", flush=True)

    def not_checked(self, what, why):
        """Keeps what is not checked, for the end."""
        self.unchecked.setdefault(why, set()).add(what)


def run(arguments, root):
    """Checks what is asked for; the exit code."""
    report = Report()
    codes = exit_codes(root)
    crds = schemas.definitions(arguments.crds) if arguments.crds else {}
    there = binaries.programs(arguments.binaries)
    if there is None:
        report.not_checked("arguments, exit codes and credentials", f"no medley and medley-worker in {arguments.binaries}")
    renderer = render.renderer()
    if renderer is None:
        report.not_checked("manifests", "neither kustomize nor kubectl 1.21 or later is installed")
    else:
        print(f"by {renderer[1]}; Kubernetes {schemas.VERSIONS[0]} and {schemas.VERSIONS[1]}")
        for name, make, since, for_gpus in cases(arguments.folders, renderer[0]):
            try:
                objects = make()
            except render.CannotRender as error:
                report.findings(name, [str(error)])
                continue
            found = check(objects, since, (report, codes, crds, there))
            if not found and not arguments.folders:
                made = pods.of(objects)
                found = [*grace(made), *(needs.gpus(made) if for_gpus else [])]
            report.findings(name, found)
        if not arguments.folders:
            three = {name: pods.of(render.render(renderer[0], render.HERE / name)) for name in ("base", "jobset", "trainer")}
            report.findings("the same pods in base, jobset and trainer", same_pods(three))
            check_images(report, renderer[0])
            if there is not None:
                check_credentials(report, there, three)
    if there is not None:
        report.findings("exit codes of the programs", [*binaries.codes(there), *binaries.untried(codes)])
    for why, what in report.unchecked.items():
        print(f"NOT CHECKED  {', '.join(sorted(what))}: {why}")
    print("something is wrong" if report.wrong else "nothing is wrong in what was checked")
    return 1 if report.wrong else 0


def cases(folders, command):
    """What to check: its name, how to render it, the oldest Kubernetes that it is for, whether it is for GPUs."""
    if folders:
        return [(it, lambda it=it: render.render(command, it), None, False) for it in folders]
    shipped = [(it, lambda it=it: render.render(command, render.HERE / it), None, it in render.FOR_GPUS) for it in render.folders()]
    return shipped + [(f"{base} with {', '.join(names)}", lambda names=names, base=base: render.combined(command, names, base),
                       render.oldest(names), bool({*names, base} & render.FOR_GPUS)) for names, base in render.COMBINATIONS]


def check(objects, since, by):
    """All that is wrong with a set of objects."""
    report, codes, crds, there = by
    found = []
    for thing in objects:
        versions = [it for it in schemas.VERSIONS if since is None or number(it) >= number(since)]
        native = [schemas.native(thing, version) for version in versions]
        wrong = [it for of_version in native if of_version for it in of_version]
        if all(it is None for it in native):
            wrong, model = schemas.custom(thing, crds)
            if wrong is None:
                report.not_checked(f"{thing['kind']} ({thing['apiVersion']})", "there is neither its CRD nor a model of it")
            elif model:
                report.not_checked(f"{thing['kind']} in full", MODEL_ONLY)
            if wrong == []:
                wrong = [it for job in schemas.jobs(thing) for version in versions for it in schemas.native(job, version)]
        found += wrong or []
    if found:
        # What has no shape has no meaning.
        return found
    made = pods.of(objects)
    found += rules.all_rules(objects, made, codes)
    if there is not None:
        found += binaries.arguments(objects, made, there)
    return found


def number(version):
    """A version, to compare."""
    return tuple(int(part) for part in version.split("."))


def exit_codes(root):
    """README.md's table."""
    return {int(code) for code in re.findall(r"^\| (\d+) \| ", (root / "README.md").read_text(), re.MULTILINE)}


def check_images(report, command):
    """`from-registry` gives Medley's images another place, and changes nothing else."""
    if not shutil.which("kubectl"):
        report.not_checked("from-registry", "kubectl is not installed")
        return
    registry = "registry.example:5000/somebody"
    for name in ("overlays/cpu-demo", "overlays/multi-node", "overlays/single-node-multi-gpu", "jobset", "trainer"):
        folder = render.HERE / name
        try:
            made = render.render([str(render.HERE / "from-registry"), registry], folder)
        except render.CannotRender as error:
            report.findings(f"images by from-registry, of {name}", [str(error)])
            continue
        expected = json.loads(json.dumps(render.render(command, folder)).replace('"image": "medley-', f'"image": "{registry}/medley-'))
        by_name = lambda objects: sorted(objects, key=lambda it: (it["kind"], it["metadata"]["name"]))
        wrong = [] if by_name(made) == by_name(expected) else ["not the same objects with images of the registry"]
        report.findings(f"images by from-registry, of {name}", wrong)


def check_credentials(report, there, three):
    """What is mounted but made by no manifest."""
    if not shutil.which("kubectl"):
        report.not_checked("credentials", "kubectl is not installed")
        return
    try:
        secrets = credentials.made(render.HERE / "credentials", there)
    except subprocess.CalledProcessError as error:
        report.findings("credentials", [f"ends with {error.returncode}: {error.stderr.strip()}"])
        return
    found = [it for secret in secrets for version in schemas.VERSIONS for it in schemas.native(secret, version)]
    found += credentials.findings(secrets, [pod for made in three.values() for pod in made])
    report.findings("credentials, for base, jobset and trainer", found)


def grace(made):
    """README.md gives a measurement for the time to save: another time is a guess."""
    said = re.search(r"`terminationGracePeriodSeconds: (\d+)`", (render.HERE / "README.md").read_text())
    for pod in (it for it in made if it.is_medley):
        given = pod.spec.get("terminationGracePeriodSeconds")
        if said is None or given != int(said[1]):
            yield f"{pod.owner}: terminationGracePeriodSeconds is {given}; README.md speaks of {said and said[1]}"


def same_pods(made):
    """base, jobset and trainer are three ways to make the same pods."""
    for role in ("coordinator", "worker"):
        plain = {name: _plain(next(it for it in of if it.role == role)) for name, of in made.items()}
        for name in ("jobset", "trainer"):
            if plain[name] != plain["base"]:
                differ = [key for key in plain["base"] if plain["base"][key] != plain[name].get(key)]
                yield f"{role}: {name} differs from base in {differ or 'what base does not have'}"


def _plain(pod):
    """A pod without what must differ: its first container's name, and how it learns the coordinator's name."""
    spec = dict(pod.spec)
    first, *others = spec["containers"]
    env = [{"name": it["name"]} if it["name"] == "COORDINATOR" else it for it in first.get("env", [])]
    spec["containers"] = [{**first, "name": "", "env": env}, *others]
    policy = str((pod.job or {}).get("podFailurePolicy")).replace(f"'{first['name']}'", "''")
    return {**spec, "labels": pod.labels, "annotations": pod.annotations, "podFailurePolicy": policy}
