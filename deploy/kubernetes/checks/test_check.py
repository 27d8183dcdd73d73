"""The check finds what is wrong: each test breaks a manifest that is right. `deploy/kubernetes/check --self-test`."""

import copy
import tomllib
import unittest
from pathlib import Path

import yaml

from . import binaries, pods, report, rules, schemas

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent


def plain(*folders):
    """The objects of folders that need no kustomize."""
    files = [it for folder in folders for it in sorted((HERE / folder).glob("*.yaml")) if it.name != "kustomization.yaml"]
    objects = [it for path in files for it in yaml.safe_load_all(path.read_text())]
    run = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "medley-run"}}
    run["data"] = {"run.toml": (HERE / "shared" / "run.toml").read_text()}
    return [*objects, run]


BASE, JOBSET = plain("shared", "network", "base"), plain("shared", "network", "jobset")
TRAINER = plain("shared", "network", "trainer")


class Case(unittest.TestCase):
    """Breaks a copy of manifests, and looks at what is found."""

    def setUp(self):
        self.objects = copy.deepcopy(BASE)

    def get(self, kind, name):
        return next(it for it in self.objects if it["kind"] == kind and it["metadata"]["name"] == name)

    def pod(self, name="medley-workers"):
        return self.get("Job", name)["spec"]["template"]["spec"]

    def container(self, name="medley-workers"):
        return self.pod(name)["containers"][0]

    def found(self):
        return rules.all_rules(self.objects, pods.of(self.objects), report.exit_codes(ROOT))

    def finds(self, *words):
        found = self.found()
        self.assertTrue(any(all(word in it for word in words) for it in found), found)

    def replace(self, name, old, new):
        container = self.container(name)
        self.assertIn(old, container["args"])
        container["args"] = [new if it == old else it for it in container["args"]]


class Right(Case):
    def test_what_is_shipped(self):
        for objects in (BASE, JOBSET, TRAINER):
            self.objects = objects
            self.assertEqual(self.found(), [])


class Ports(Case):
    def test_a_service_for_a_port_that_is_not_there(self):
        self.get("Service", "medley-coordinator")["spec"]["ports"][0]["targetPort"] = "rpc"
        self.finds("Service medley-coordinator", "rpc")

    def test_a_headless_service_cannot_change_the_port(self):
        self.get("Service", "medley-coordinator")["spec"]["ports"][0]["port"] = 80
        self.finds("headless", "29400")

    def test_a_probe_of_another_port(self):
        self.container("medley-coordinator")["readinessProbe"]["grpc"]["port"] = 29402
        self.finds("readinessProbe", "29402")
        self.container("medley-coordinator")["livenessProbe"]["httpGet"]["port"] = "metrics"
        self.finds("livenessProbe", "metrics")

    def test_a_coordinator_that_listens_elsewhere(self):
        self.replace("medley-coordinator", "--listen=0.0.0.0:29400", "--listen=0.0.0.0:29500")
        self.finds("--listen", "29500")

    def test_workers_that_call_another_port(self):
        self.replace("medley-workers", "--coordinator=$(COORDINATOR):29400", "--coordinator=$(COORDINATOR):29401")
        self.finds("does not serve there")

    def test_a_scrape_annotation_of_another_port(self):
        template = self.get("Job", "medley-coordinator")["spec"]["template"]
        template["metadata"]["annotations"]["prometheus.io/port"] = "29400"
        self.finds("prometheus.io/port")

    def test_a_monitor_of_another_port(self):
        monitor = yaml.safe_load((HERE / "components/prometheus/pod-monitor.yaml").read_text())
        self.objects.append(monitor)
        self.assertEqual(self.found(), [])
        monitor["spec"]["podMetricsEndpoints"][0]["port"] = "metrics"
        self.finds("PodMonitor medley", "metrics")


class Names(Case):
    def test_a_name_that_nobody_has(self):
        self.container()["env"][0]["value"] = "medley-coordinatr"
        self.finds("no Service and no pod", "medley-coordinatr")

    def test_a_name_prefix_that_reaches_objects_only(self):
        for thing in self.objects:
            thing["metadata"]["name"] = "dev-" + thing["metadata"]["name"]
        self.finds("no Service and no pod has the name medley-coordinator")

    def test_a_job_set_without_names(self):
        self.objects = copy.deepcopy(JOBSET)
        self.get("JobSet", "medley")["spec"]["network"]["enableDNSHostnames"] = False
        self.finds("no Service and no pod", "medley-coordinator-0-0.medley")

    def test_a_job_set_that_does_not_say_who_coordinates(self):
        self.objects = copy.deepcopy(JOBSET)
        del self.get("JobSet", "medley")["spec"]["coordinator"]
        self.finds("no Service and no pod")

    def test_a_certificate_for_another_name(self):
        self.objects = copy.deepcopy(JOBSET) + plain("components/tls-cert-manager")[:-1]
        self.assertEqual(self.found(), [])
        self.get("Certificate", "medley-coordinator")["spec"]["dnsNames"].remove("medley-coordinator-0-0.medley")
        self.finds("is not made out to medley-coordinator-0-0.medley")

    def test_a_subdomain_without_a_service(self):
        self.pod()["subdomain"] = "medley-workers"
        self.finds("subdomain medley-workers")


class Selectors(Case):
    def test_a_service_that_selects_nobody(self):
        self.get("Service", "medley-coordinator")["spec"]["selector"]["app.kubernetes.io/component"] = "leader"
        self.finds("selects no pod")

    def test_workers_whose_labels_changed(self):
        labels = self.get("Job", "medley-workers")["spec"]["template"]["metadata"]["labels"]
        labels["app.kubernetes.io/instance"] = "other"
        self.finds("medley-workers", "does not reach")

    def test_a_network_without_dns(self):
        policy = self.get("NetworkPolicy", "medley-worker")
        policy["spec"]["egress"] = policy["spec"]["egress"][:2]
        self.finds("does not reach a DNS")

    def test_workers_that_reach_each_other_at_one_port_only(self):
        del self.get("NetworkPolicy", "medley-worker")["spec"]["ingress"][0]["ports"][0]["endPort"]
        self.finds("does not reach port 45678")

    def test_a_policy_that_lets_all_in(self):
        del self.get("NetworkPolicy", "medley-coordinator")["spec"]["ingress"][0]["from"]
        self.finds("any pod of the namespace reaches port 29400")

    def test_no_policy_at_all(self):
        self.objects = [it for it in self.objects if it["metadata"]["name"] != "medley-deny"]
        self.finds("no NetworkPolicy denies egress")


class References(Case):
    def test_a_secret_that_nobody_makes(self):
        self.pod()["volumes"][0]["secret"]["secretName"] = "medley-worker-keys"
        self.finds("Secret medley-worker-keys")

    def test_a_claim_that_nobody_makes(self):
        self.pod("medley-coordinator")["volumes"][3]["persistentVolumeClaim"]["claimName"] = "results"
        self.finds("PersistentVolumeClaim results")

    def test_a_mount_of_no_volume(self):
        self.container()["volumeMounts"][0]["name"] = "keys"
        self.finds("mounts keys")

    def test_a_file_that_lies_in_no_volume(self):
        self.replace("medley-coordinator", "--output_dir=/out/run", "--output_dir=/results")
        self.finds("--output_dir=/results lies in no volume")

    def test_a_key_that_the_map_does_not_have(self):
        self.get("ConfigMap", "medley-run")["data"] = {"flags.toml": ""}
        self.finds("has no run.toml")

    def test_a_worker_with_the_results(self):
        volumes = self.pod()["volumes"]
        volumes.append({"name": "out", "persistentVolumeClaim": {"claimName": "medley-output"}})
        self.finds("a worker needs no volume claim")


class Resources(Case):
    def gpus(self, number):
        self.container()["resources"]["limits"]["nvidia.com/gpu"] = number

    def test_gpus_come_whole_and_more_than_none(self):
        self.replace("medley-workers", "--device=cpu", "--device=cuda")
        self.gpus("1")
        self.assertEqual(self.found(), [])
        for number in ("-1", "0", "0.5", "one"):
            with self.subTest(number):
                self.gpus(number)
                self.finds("nvidia.com/gpu", number)

    def test_a_gpu_that_nobody_computes_on(self):
        self.gpus("1")
        self.finds("--device=cpu with a limit")

    def test_a_gpu_that_is_not_there(self):
        self.replace("medley-workers", "--device=cpu", "--device=cuda")
        self.finds("--device=cuda with no limit")

    def test_requests_above_limits(self):
        self.container()["resources"]["requests"]["memory"] = "9Gi"
        self.finds("requests 9Gi of memory")

    def test_memory_without_a_limit(self):
        del self.container()["resources"]["limits"]["memory"]
        self.finds("a limit for memory")

    def test_shared_memory_without_a_limit(self):
        del next(it for it in self.pod()["volumes"] if it["name"] == "shm")["emptyDir"]["sizeLimit"]
        self.finds("volumes in memory")


class Images(Case):
    def test_a_registry_for_one_of_two_images(self):
        for name, other in (("medley-coordinator", "medley-worker:0.1.0-cpu"), ("medley-workers", "medley-coordinator:0.1.0")):
            with self.subTest(name):
                self.setUp()
                container = self.container(name)
                container["image"] = "registry.example/" + container["image"]
                self.finds(other, "of no registry", "`images:`")
        container = self.container("medley-coordinator")
        container["image"] = "registry.example:5000/somebody/" + container["image"]
        self.assertEqual(self.found(), [])


class Order(Case):
    def test_a_train_job_before_its_runtime(self):
        self.objects = copy.deepcopy(TRAINER)
        self.objects.insert(0, self.objects.pop(self.objects.index(self.get("TrainJob", "medley"))))
        self.finds("comes before its runtime")


class Exits(Case):
    def policy(self, name="medley-workers"):
        return self.get("Job", name)["spec"]["podFailurePolicy"]["rules"]

    def test_a_code_that_readme_does_not_have(self):
        self.policy()[2]["onExitCodes"]["values"].append(42)
        self.finds("exit code 42")

    def test_a_job_that_goes_on_after_a_bad_command_line(self):
        self.policy()[2]["onExitCodes"]["values"].remove(64)
        self.finds("fails on [65, 78]")

    def test_codes_out_of_order(self):
        self.policy()[2]["onExitCodes"]["values"].reverse()
        self.finds("exit codes in order")

    def test_a_job_that_fails_where_it_is_asked_to_start_again(self):
        self.policy()[1]["action"] = "FailJob"
        self.finds("exit code 75")

    def test_a_disruption_that_comes_after_exit_codes(self):
        rules_of = self.policy("medley-coordinator")
        rules_of.append(rules_of.pop(0))
        self.finds("a disruption must be ignored")

    def test_a_container_of_another_name(self):
        self.policy()[1]["onExitCodes"]["containerName"] = "main"
        self.finds("names the container main")


class Workers(Case):
    def test_fewer_than_the_coordinator_waits_for(self):
        self.get("Job", "medley-workers")["spec"]["completions"] = 3
        self.finds("waits for 2 workers, and 3 are started")

    def test_a_train_job_of_another_size(self):
        self.objects = copy.deepcopy(TRAINER)
        self.get("TrainJob", "medley")["spec"]["trainer"]["numNodes"] = 4
        self.finds("waits for 2 workers, and 4 are started")

    def test_several_workers_of_a_pod_count_each(self):
        self.container()["args"].append("--workers=4")
        self.finds("waits for 2 workers, and 8 are started")
        data = self.get("ConfigMap", "medley-run")["data"]
        data["run.toml"] = data["run.toml"].replace("workers = 2", "workers = 8")
        self.assertEqual(self.found(), [])

    def test_a_pod_has_a_worker_for_each_of_its_gpus(self):
        self.replace("medley-workers", "--device=cpu", "--device=cuda")
        self.container()["resources"]["limits"]["nvidia.com/gpu"] = "4"
        self.finds("1 workers in a pod with 4 GPUs")
        for number in ("4", "auto"):
            with self.subTest(number):
                self.container()["args"] = [it for it in self.container()["args"] if "--workers" not in it]
                self.container()["args"].append(f"--workers={number}")
                self.finds("waits for 2 workers, and 8 are started")
        self.get("ConfigMap", "medley-run")["data"]["run.toml"] = "workers = 8"
        self.assertEqual(self.found(), [])

    def test_more_than_there_are_lanes(self):
        self.get("Job", "medley-workers")["spec"]["completions"] = 9
        data = self.get("ConfigMap", "medley-run")["data"]
        data["run.toml"] = data["run.toml"].replace("workers = 2", "workers = 9")
        self.assertEqual(tomllib.loads(data["run.toml"])["workers"], 9)
        self.finds("--lanes 9")


class Schemas(Case):
    def test_what_is_no_field_and_what_has_another_type(self):
        job = self.get("Job", "medley-workers")
        for version in schemas.VERSIONS:
            self.assertEqual(schemas.native(job, version), [])
            job["spec"]["completionMod"] = "Indexed"
            self.assertIn("completionMod", schemas.native(job, version)[0])
            del job["spec"]["completionMod"]
            job["spec"]["parallelism"] = "two"
            self.assertIn("parallelism", schemas.native(job, version)[0])
            job["spec"]["parallelism"] = 2

    def test_a_field_of_a_newer_kubernetes(self):
        job = self.get("Job", "medley-workers")
        job["spec"]["scheduling"] = {"schedulingPolicy": {"gang": {"minCount": 2}}}
        self.assertEqual(schemas.native(job, "1.37"), [])
        self.assertIn("scheduling", schemas.native(job, "1.33")[0])

    def test_custom_objects_are_closed_and_those_unknown_are_not_passed(self):
        number = {"x-kubernetes-int-or-string": True}
        spec = {"type": "object", "properties": {"podIndex": {"type": "integer"}, "port": number}}
        schema = schemas.closed({"type": "object", "properties": {"apiVersion": {}, "kind": {}, "spec": spec}})
        schema["properties"]["metadata"] = {"type": "object"}
        crds = {("a.b/v1", "Thing"): schema}
        thing = {"apiVersion": "a.b/v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": {"podIndex": 0, "port": "http"}}
        self.assertEqual(schemas.custom(thing, crds), ([], None))
        thing["spec"] = {"podIdx": 0}
        self.assertIn("podIdx", schemas.custom(thing, crds)[0][0])
        self.assertEqual(schemas.custom({**thing, "kind": "Other"}, crds), (None, None))

    def test_what_a_model_alone_was_asked_about_is_said_beside_crds(self):
        said = report.Report()
        report.check(JOBSET, None, (said, report.exit_codes(ROOT), {("a.b/v1", "Thing"): {}}, None))
        self.assertEqual(said.unchecked, {report.MODEL_ONLY: {"JobSet in full"}})
        said = report.Report()
        report.check(JOBSET, None, (said, report.exit_codes(ROOT), {("jobset.x-k8s.io/v1alpha2", "JobSet"): {}}, None))
        self.assertEqual(said.unchecked, {})


class Programs(Case):
    """Skipped, and said so, where the programs are not built."""

    def setUp(self):
        super().setUp()
        self.there = binaries.programs(ROOT / "target" / "release")
        if self.there is None:
            self.skipTest("medley and medley-worker are not built")

    def parsed(self):
        return list(binaries.arguments(self.objects, pods.of(self.objects), self.there))

    def test_flags_that_the_programs_do_not_have(self):
        self.assertEqual(self.parsed(), [])
        self.replace("medley-workers", "--device=cpu", "--device=tpu")
        self.replace("medley-coordinator", "--disable_tqdm", "--silent")
        self.assertEqual(len(self.parsed()), 2)

    def test_a_key_that_is_no_flag(self):
        data = self.get("ConfigMap", "medley-run")["data"]
        data["run.toml"] += "learning_rat = 1e-4\n"
        self.assertIn("learning_rat", self.parsed()[0])

