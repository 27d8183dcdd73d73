"""The check finds what is missing and what is unsafe: each test breaks a manifest that is right."""

import base64
import copy
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

from . import binaries, credentials, needs, pods, render, report, schemas
from .test_check import JOBSET, ROOT, TRAINER, Case


class Needs(Case):
    def test_a_coordinator_without_probes(self):
        container = self.container("medley-coordinator")
        for probe in ("readinessProbe", "livenessProbe"):
            with self.subTest(probe):
                self.setUp()
                del self.container("medley-coordinator")[probe]
                self.finds("Job medley-coordinator", probe)
        self.assertIn("grpc", container["readinessProbe"])

    def test_a_readiness_probe_that_is_no_call(self):
        self.container("medley-coordinator")["readinessProbe"] = {"tcpSocket": {"port": 29400}}
        self.finds("no readinessProbe by gRPC")

    def test_a_liveness_probe_that_kills_who_reads_data(self):
        probes = ({"grpc": {"port": 29401}}, {"httpGet": {"path": "/readyz", "port": "http"}})
        for probe in probes:
            with self.subTest(probe):
                self.container("medley-coordinator")["livenessProbe"] = probe
                self.finds("does not ask /healthz")

    def test_workers_without_shared_memory(self):
        for objects, job in ((JOBSET, "JobSet medley/workers"), (TRAINER, "TrainingRuntime medley/node")):
            with self.subTest(job):
                self.objects = copy.deepcopy(objects)
                spec = next(it for it in pods.of(self.objects) if it.role == "worker").spec
                next(it for it in spec["volumes"] if it["name"] == "shm")["emptyDir"].pop("medium")
                self.finds(job, "no volume in memory at /dev/shm")
        self.setUp()
        mounts = self.container()["volumeMounts"]
        mounts[:] = [it for it in mounts if it["mountPath"] != "/dev/shm"]
        self.finds("Job medley-workers", "no volume in memory at /dev/shm")

    def test_shared_memory_for_a_run_in_one_pod(self):
        self.objects = render_of("overlays/single-node-multi-gpu", self)
        self.assertEqual(self.found(), [])
        for volume in self.pod("medley-train")["volumes"]:
            volume.get("emptyDir", {}).pop("medium", None)
        self.finds("Job medley-train", "/dev/shm")

    def test_results_that_go_with_the_pod(self):
        volume = next(it for it in self.pod("medley-coordinator")["volumes"] if it["name"] == "output")
        volume["emptyDir"] = volume.pop("persistentVolumeClaim") and {}
        self.finds("--output_dir=/out/run lies in no claim")

    def test_an_overlay_for_gpus_that_lost_them(self):
        for folder in ("overlays/multi-node", "overlays/single-node-multi-gpu"):
            with self.subTest(folder):
                made = pods.of(render_of(folder, self))
                self.assertEqual(list(needs.gpus(made)), [])
                for container in (it for pod in made for it in pod.containers()):
                    container["resources"]["limits"].pop("nvidia.com/gpu", None)
                self.assertIn("no limit for nvidia.com/gpu", next(needs.gpus(made)))

    def test_a_time_to_save_that_nobody_measured(self):
        self.assertEqual(list(report.grace(pods.of(self.objects))), [])
        self.pod()["terminationGracePeriodSeconds"] = 301
        self.assertIn("is 301; README.md speaks of 300", next(report.grace(pods.of(self.objects))))

    def test_exit_codes_are_those_of_the_table_and_of_the_programs(self):
        self.assertEqual(report.exit_codes(ROOT), {0, 64, 65, 70, 75, 78})
        self.assertEqual(list(binaries.untried(report.exit_codes(ROOT))), [])
        self.assertIn("exit code 71", next(binaries.untried(report.exit_codes(ROOT) | {71})))

    def test_every_component_is_rendered_with_something(self):
        components = {it.name for it in (render.HERE / "components").iterdir()}
        self.assertEqual({name for names, _ in render.COMBINATIONS for name in names}, components)


def render_of(folder, test):
    renderer = render.renderer()
    if renderer is None:
        test.skipTest("neither kustomize nor kubectl is installed")
    return render.render(renderer[0], render.HERE / folder)


class Models(Case):
    """Custom resources where no CRD is named."""

    def setUp(self):
        self.objects = copy.deepcopy(JOBSET)

    def wrong(self):
        return schemas.custom(self.get("JobSet", "medley"), {})[0]

    def test_what_is_no_field_is_missing_or_has_another_type(self):
        self.assertEqual(self.wrong(), [])
        spec = self.get("JobSet", "medley")["spec"]
        spec["coordinator"]["podIdx"] = 0
        self.assertIn("podIdx", self.wrong()[0])
        del spec["coordinator"]["podIdx"], spec["coordinator"]["replicatedJob"]
        self.assertTrue(self.wrong())
        spec["coordinator"]["replicatedJob"] = 1
        self.assertTrue(self.wrong())

    def test_fields_of_a_pod_deep_inside(self):
        job = self.get("JobSet", "medley")["spec"]["replicatedJobs"][1]
        job["template"]["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
        self.assertTrue(self.wrong())

    def test_its_jobs_are_held_against_kubernetes_too(self):
        for objects, kind in ((JOBSET, "JobSet"), (TRAINER, "TrainingRuntime")):
            self.objects = copy.deepcopy(objects)
            made = list(schemas.jobs(self.get(kind, "medley")))
            self.assertEqual(len(made), 2)
            self.assertEqual([it for job in made for it in schemas.native(job, "1.33")], [])
            made[1]["spec"]["podFailurePolicy"]["rules"][0]["action"] = 1
            self.assertTrue(schemas.native(made[1], "1.33"))


class Credentials(Case):
    def setUp(self):
        super().setUp()
        names = b"".join(bytes([0x82, len(it)]) + it for it in (b"medley-coordinator", b"medley-coordinator-0-0.medley"))
        text = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(names).decode()}\n-----END CERTIFICATE-----\n"
        certificate = base64.b64encode(text.encode()).decode()
        self.coordinator = {"tls.crt": certificate, "tls.key": "", "tokens": ""}
        self.worker = {"ca.crt": "", "token": ""}
        self.name = "medley-worker-credentials"

    def problems(self):
        secrets = (("medley-coordinator-credentials", self.coordinator), (self.name, self.worker))
        made = [{"kind": "Secret", "metadata": {"name": name}, "data": data} for name, data in secrets]
        return list(credentials.findings(made, pods.of(JOBSET) + pods.of(self.objects)))

    def test_what_is_right(self):
        self.assertEqual(self.problems(), [])

    def test_a_secret_that_nobody_mounts(self):
        self.name = "medley-workers-credentials"
        self.assertIn("medley-workers-credentials", self.problems()[0])

    def test_a_secret_without_a_token_and_one_with_the_authority(self):
        del self.worker["token"]
        self.coordinator["ca.key"] = ""
        self.assertEqual(len(self.problems()), 2)

    def test_a_name_that_the_certificate_does_not_have(self):
        self.container()["env"][0]["value"] = "medley-coord"
        self.assertIn("is not made out to medley-coord,", self.problems()[0])


class MakesCredentials(unittest.TestCase):
    """The script, with a kubectl that has Secrets or none, and a medley that makes folders."""

    def asked(self, *words, there="", **folders):
        with tempfile.TemporaryDirectory() as folder:
            tokens = base64.b64encode(b"# role token\nworker w\nviewer v\noperator o\n").decode()
            Path(folder, "kubectl").write_text(
                f'#!/bin/sh\ncase "$*" in\n*tokens*) echo {tokens} ;;\n*jsonpath*) echo YQ== ;;\n'
                f'"get secret --namespace medley "*) {there or "true"} ;;\n"get "*) ;;\n*) echo made: ;;\nesac\n')
            Path(folder, "medley").write_text(
                '#!/bin/sh\nfor role in coordinator worker viewer operator; do mkdir -p "$2/$role"; echo "$role" >"$2/$role/token"; done\n')
            for name in ("kubectl", "medley"):
                Path(folder, name).chmod(0o755)
            # As the first folder: the script looks into target/release before.
            script = Path(folder, "deploy", "kubernetes", "credentials")
            script.parent.mkdir(parents=True)
            script.write_text((render.HERE / "credentials").read_text())
            script.chmod(0o755)
            more = {name: f"{folder}/{at}" for name, at in folders.items()}
            done = subprocess.run([script, *words], capture_output=True, text=True,
                                  env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **more})
            kept = {it.parent.name: it.read_text().strip() for it in Path(folder).glob("my-*/token")}
            return done.returncode, done.stdout.count("made:"), done.stderr, kept

    def test_keys_are_made_and_kept_where_that_is_asked_for(self):
        code, made, said, kept = self.asked(VIEWER="my-viewer", OPERATOR="my-operator")
        self.assertEqual((code, made, said, kept), (0, 2, "", {"my-viewer": "viewer", "my-operator": "operator"}))

    def test_keys_that_are_there_are_not_replaced(self):
        code, made, said, kept = self.asked(there="echo secret/medley-worker-credentials", VIEWER="my-viewer")
        self.assertEqual((code, made, kept), (78, 0, {}))
        for words in ("secret/medley-worker-credentials already", "--fetch", "kubectl delete secret --namespace medley"):
            self.assertIn(words, said)

    def test_a_cluster_that_cannot_be_asked(self):
        code, made, said, _ = self.asked(there="echo refused >&2; exit 1")
        self.assertEqual((code, made), (0, 2))
        self.assertIn("no cluster could be asked whether namespace medley has keys already (refused)", said)

    def test_keys_for_who_looks_on_come_from_the_secret(self):
        code, made, _, kept = self.asked("--fetch", VIEWER="my-viewer", OPERATOR="my-operator")
        self.assertEqual((code, made, kept), (0, 0, {"my-viewer": "v", "my-operator": "o"}))
        self.assertEqual(self.asked("--fetch")[0], 64)
        self.assertEqual(self.asked("--fatch")[0], 64)


class CopyData(unittest.TestCase):
    """The script, with a kubectl that says what it is asked."""

    def asked(self, *words, fails=""):
        with tempfile.TemporaryDirectory() as folder:
            log, kubectl = Path(folder, "log"), Path(folder, "kubectl")
            log.touch()
            kubectl.write_text(f'#!/bin/sh\necho "$*" >> {log}\n[ "$1" != exec ] || cat >/dev/null\n[ "$1" != "{fails}" ]\n')
            kubectl.chmod(0o755)
            path = f"{folder}:{os.environ['PATH']}"
            done = subprocess.run([render.HERE / "copy-data", *words], capture_output=True, env={**os.environ, "PATH": path})
            return done.returncode, [line.split()[0] for line in log.read_text().splitlines()]

    def copied(self, *words):
        """What arrives, by a kubectl whose `exec` unpacks here."""
        with tempfile.TemporaryDirectory() as folder:
            kubectl, data = Path(folder, "kubectl"), Path(folder, "data")
            data.mkdir()
            kubectl.write_text(f'#!/bin/sh\ncase $1 in exec) exec tar -xmf - -C {data} ;; esac\n')
            kubectl.chmod(0o755)
            path = f"{folder}:{os.environ['PATH']}"
            subprocess.run([render.HERE / "copy-data", *words], check=True, capture_output=True, env={**os.environ, "PATH": path})
            return {str(it.relative_to(data)): it.read_text() for it in data.rglob("*") if it.is_file() and not it.is_symlink()}

    def test_links_are_followed(self):
        # As in the Hugging Face cache.
        with tempfile.TemporaryDirectory() as folder:
            blobs, snapshot = Path(folder, "blobs"), Path(folder, "snapshots", "abc")
            blobs.mkdir()
            snapshot.mkdir(parents=True)
            (blobs / "1").write_text("weights")
            (snapshot / "model.safetensors").symlink_to("../../blobs/1")
            Path(folder, "model").symlink_to(snapshot)
            self.assertEqual(self.copied("medley", f"{folder}/model"), {"model/model.safetensors": "weights"})
            self.assertEqual(self.copied("medley", str(snapshot)), {"abc/model.safetensors": "weights"})

    def test_files_are_copied_and_the_pod_goes(self):
        code, asked = self.asked("medley", __file__, str(render.HERE / "storage"))
        self.assertEqual((code, sorted(asked[:2]), asked[2:]), (0, ["apply", "kustomize"], ["wait", "exec", "exec", "delete"]))

    def test_the_pod_goes_where_copying_fails(self):
        code, asked = self.asked("medley", __file__, fails="exec")
        self.assertEqual((code, asked[2:]), (1, ["wait", "exec", "delete"]))

    def test_a_file_that_is_not_there(self):
        self.assertEqual(self.asked("medley", "/no/such/file"), (65, []))
        self.assertEqual(self.asked("medley"), (64, []))


class Security(Case):
    def test_every_line_of_restricted(self):
        breaks = [
            ("may run as root", lambda pod, own: pod["securityContext"].pop("runAsNonRoot")),
            ("has no seccompProfile", lambda pod, own: pod["securityContext"].pop("seccompProfile")),
            ("service account's token", lambda pod, own: pod.pop("automountServiceAccountToken")),
            ("has no time to save", lambda pod, own: pod.update(terminationGracePeriodSeconds=30)),
            ("host's namespaces", lambda pod, own: pod.update(hostNetwork=True)),
            ("volume host is hostPath", lambda pod, own: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}})),
            ("may gain privileges", lambda pod, own: own["securityContext"].pop("allowPrivilegeEscalation")),
            ("can write to its image", lambda pod, own: own["securityContext"].update(readOnlyRootFilesystem=False)),
            ("does not drop all", lambda pod, own: own["securityContext"]["capabilities"].update(drop=["NET_RAW"])),
            ("adds capabilities", lambda pod, own: own["securityContext"]["capabilities"].update(add=["IPC_LOCK"])),
            ("sets sysctls", lambda pod, own: pod["securityContext"].update(sysctls=[{"name": "kernel.shm_rmid_forced", "value": "1"}])),
            ("has no seccompProfile", lambda pod, own: own["securityContext"].update(seccompProfile={"type": "Unconfined"})),
            ("sees all of /proc", lambda pod, own: own["securityContext"].update(procMount="Unmasked")),
            ("takes a port of its node", lambda pod, own: own.update(ports=[{"containerPort": 1024, "hostPort": 1024}])),
            ("is privileged", lambda pod, own: own["securityContext"].update(privileged=True)),
            ("without a version", lambda pod, own: own.update(image="registry:5000/medley-worker")),
            ("without a version", lambda pod, own: own.update(image="medley-worker:latest")),
            ("started by a shell", lambda pod, own: own.update(command=["/bin/sh", "-c"])),
        ]
        for words, breaking in breaks:
            with self.subTest(words):
                self.setUp()
                breaking(self.pod(), self.container())
                self.finds(words)

    def test_secrets_in_the_environment(self):
        source = {"secretKeyRef": {"name": "medley-worker-credentials", "key": "token"}}
        self.container()["env"].append({"name": "KEY", "valueFrom": source})
        self.finds("KEY is a secret in the environment", "mount it as a file")
        self.container()["env"][-1] = {"name": "MEDLEY_TOKEN", "value": "in the clear"}
        self.finds("MEDLEY_TOKEN is a secret in the environment")
        del self.container()["env"][-1]
        self.container()["envFrom"] = [{"secretRef": {"name": "medley-worker-credentials"}}]
        self.finds("all of Secret medley-worker-credentials")
