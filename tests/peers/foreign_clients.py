"""Clients that share no code with Medley talk to its coordinator: Python's gRPC (a C library), h2, Prometheus' parser.

Nothing is generated from the .proto files: what can be called is asked by reflection.

    python3.11 -m venv .venv && . .venv/bin/activate && pip install -r tests/peers/requirements-rpc.txt
    cargo build --release && python tests/peers/foreign_clients.py
"""

import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import unittest
import urllib.request
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
MEDLEY = ROOT / "target/release/medley"
FIXTURES = ROOT / "tests/fixtures/tiny-bert"
RECIPE = (
    "--model_name_or_path model --do_train --train_file train.jsonl --max_seq_length 64 --per_device_train_batch_size 8 "
    "--num_train_epochs 10000 --save_strategy no --logging_steps 10 --threads 1 --output_dir out --workers 1 "
    "--http_listen 127.0.0.1:0"
)
HEALTH = health_pb2.HealthCheckResponse


class Coordinator:
    """A `medley` process in a folder of its own, and where it listens."""

    def __init__(self, folder: Path, verb: str, flags: str, until: str) -> None:
        shutil.copytree(FIXTURES / "model", folder / "model", dirs_exist_ok=True)
        rows = (FIXTURES / "rows.jsonl").read_text(encoding="utf-8").splitlines()
        (folder / "train.jsonl").write_text("\n".join(rows[:100]), encoding="utf-8")
        words = [str(MEDLEY), verb, *RECIPE.split(), *flags.split()]
        self.process = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.address = self.http = ""
        for line in self.process.stderr:
            self.lines.append(line)
            self.address = next(iter(re.findall(r"coordinator listens on \S+?:(\d+);", line)), self.address)
            self.http = next(iter(re.findall(r"metrics on http://\S+?:(\d+):", line)), self.http)
            if until in line:
                break
        assert self.address and self.http, "".join(self.lines)
        # What it goes on to say must not fill the pipe.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def end(self) -> int:
        """Asks it to stop; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class Reflected:
    """Calls that are made with what reflection tells of them."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def call(self, service: str, name: str, fields: dict | None = None, **options: object) -> object:
        method = self.pool.FindServiceByName(f"medley.v1.{service}").FindMethodByName(name)
        request, response = (message_factory.GetMessageClass(it) for it in (method.input_type, method.output_type))
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        path = f"/medley.v1.{service}/{name}"
        stub = kind(path, request_serializer=request.SerializeToString, response_deserializer=response.FromString)
        return stub(request(**(fields or {})), **{"timeout": 10, **options})


class OneMachine(unittest.TestCase):
    """A run on this machine, without credentials."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        cls.run_ = Coordinator(Path(cls.folder.name), "train", "", "update 20:")
        cls.channel = grpc.insecure_channel(f"127.0.0.1:{cls.run_.address}")
        cls.api = Reflected(cls.channel)

    @classmethod
    def tearDownClass(cls) -> None:
        # A watch that nobody ends does not hold the end up.
        watch = health_pb2_grpc.HealthStub(cls.channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == HEALTH.SERVING
        code = cls.run_.end()
        last = [message.status for message in watch]
        cls.channel.close()
        cls.folder.cleanup()
        assert code == 75 and last == [HEALTH.NOT_SERVING], (code, last)

    def code(self, call: object) -> grpc.StatusCode:
        with self.assertRaises(grpc.RpcError) as raised:
            call()
        return raised.exception.code()

    def test_reflection_of_both_versions_names_all_services(self) -> None:
        expected = {"medley.v1.StatusService", "medley.v1.OperatorService", "medley.v1.WorkerService"}
        self.assertLessEqual(expected | {"grpc.health.v1.Health"}, set(self.api.database.get_services()))
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = self.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        listed = next(stub(iter([ask]), timeout=10)).list_services_response.service
        self.assertLessEqual(expected, {service.name for service in listed})

    def test_the_status_needs_no_generated_code(self) -> None:
        status = self.api.call("StatusService", "GetStatus").status
        self.assertGreaterEqual(status.update, 20)
        self.assertEqual((len(status.workers), len(status.run)), (1, 64))
        self.assertGreater(status.workers[0].rows_per_second, 0)
        report = self.api.call("StatusService", "GetReport").report
        self.assertEqual(report.run, status.run)
        self.assertEqual(len(self.api.call("StatusService", "ListCheckpoints").checkpoints), 0)

    def test_health_by_name(self) -> None:
        health = health_pb2_grpc.HealthStub(self.channel)
        for name in ("", "medley.v1.WorkerService", "medley.v1.OperatorService"):
            self.assertEqual(health.Check(health_pb2.HealthCheckRequest(service=name)).status, HEALTH.SERVING)
        ask = health_pb2.HealthCheckRequest(service="else")
        self.assertEqual(self.code(lambda: health.Check(ask)), grpc.StatusCode.NOT_FOUND)

    def test_a_deadline_ends_a_watch_and_nothing_else(self) -> None:
        watch = self.api.call("StatusService", "WatchStatus", timeout=1)
        seen = []
        self.assertEqual(
            self.code(lambda: seen.extend(message.status.update for message in watch)),
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )
        self.assertTrue(1 < len(seen) <= 12 and seen == sorted(seen), seen)
        self.api.call("StatusService", "GetStatus")

    def test_a_refusal_has_details_for_programs(self) -> None:
        with self.assertRaises(grpc.RpcError) as raised:
            self.api.call("OperatorService", "Drain", {"worker": 4711})
        error = raised.exception
        self.assertEqual(error.code(), grpc.StatusCode.NOT_FOUND)
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        info = error_details_pb2.ErrorInfo()
        self.assertTrue(status_pb2.Status.FromString(details).details[0].Unpack(info))
        self.assertEqual((info.reason, info.domain, info.metadata["worker"]), ("NO_SUCH_WORKER", "medley", "4711"))

    def test_what_is_too_large_or_unknown_is_refused(self) -> None:
        large = self.channel.unary_unary("/medley.v1.StatusService/GetStatus")
        self.assertEqual(self.code(lambda: large(b"\x0a" * (1 << 20), timeout=10)), grpc.StatusCode.OUT_OF_RANGE)
        unknown = self.channel.unary_unary("/medley.v1.StatusService/Format")
        self.assertEqual(self.code(lambda: unknown(b"", timeout=10)), grpc.StatusCode.UNIMPLEMENTED)
        session = self.channel.stream_stream("/medley.v1.WorkerService/Session")
        self.assertEqual(self.code(lambda: list(session(iter([b""]), timeout=10))), grpc.StatusCode.UNAUTHENTICATED)

    def test_prometheus_can_read_the_metrics(self) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.run_.http}/metrics", timeout=10) as answer:
            self.assertIn("version=0.0.4", answer.headers["content-type"])
            text = answer.read().decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        self.assertNotIn("unknown", {family.type for family in families.values()})
        for name, family in families.items():
            self.assertRegex(name, r"^medley_[a-z_]+$")
            self.assertTrue(family.documentation and family.samples, name)
            keys = [(sample.name, tuple(sample.labels.items())) for sample in family.samples]
            self.assertEqual(len(keys), len(set(keys)), name)
            for sample in family.samples:
                self.assertEqual(sample.name, f"{name}_total" if family.type == "counter" else name)
                self.assertLessEqual(set(sample.labels), {"rank", "kind", "phase", "split", "version", "run"})
        self.assertGreaterEqual(families["medley_updates"].samples[0].value, 20)

    def test_another_http2_reads_the_health(self) -> None:
        code, body = self.by_h2(self.run_.http, [(":method", "GET"), (":path", "/healthz")], b"")
        self.assertEqual((code, body), ("200", b"ok\n"))
        headers = [(":method", "POST"), (":path", "/grpc.health.v1.Health/Check"), ("te", "trailers")]
        headers.append(("content-type", "application/grpc"))
        for port in (self.run_.http, self.run_.address):
            code, body = self.by_h2(port, headers, b"\0\0\0\0\0")
            self.assertEqual((code, HEALTH.FromString(body[5:]).status), ("200", HEALTH.SERVING))

    def by_h2(self, port: str, headers: list[tuple[str, str]], content: bytes) -> tuple[str, bytes]:
        """One request of another implementation of HTTP/2; the code and the content of its answer."""
        connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        connection.initiate_connection()
        all_headers = [*headers, (":scheme", "http"), (":authority", f"127.0.0.1:{port}")]
        all_headers.sort(key=lambda header: not header[0].startswith(":"))
        connection.send_headers(1, all_headers, end_stream=not content)
        if content:
            connection.send_data(1, content, end_stream=True)
        code, body = "", b""
        with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as stream:
            while True:
                stream.sendall(connection.data_to_send())
                received = stream.recv(1 << 16)
                self.assertTrue(received, "it hung up")
                for event in connection.receive_data(received):
                    if isinstance(event, h2.events.ResponseReceived):
                        code = dict(event.headers)[":status"]
                    elif isinstance(event, h2.events.DataReceived):
                        body += event.data
                    elif isinstance(event, h2.events.StreamEnded):
                        return code, body


class WithKeys:
    """A coordinator with the keys that `medley init-certs` makes, and how to ask it."""

    flags: list[str]

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        folder = Path(cls.folder.name)
        subprocess.run([MEDLEY, "init-certs", "keys", *cls.flags], cwd=folder, check=True, capture_output=True)
        flags = "--listen 127.0.0.1:0 --credentials keys/coordinator"
        cls.run_ = Coordinator(folder, "serve", flags, "waiting for workers")
        cls.keys = folder / "keys"

    @classmethod
    def tearDownClass(cls) -> None:
        code = cls.run_.end()
        cls.folder.cleanup()
        assert code == 75, code

    def channel(self, role: str | None, token: str | None) -> grpc.Channel:
        """A channel with a role's certificate and a token."""
        read = lambda name: (self.keys / name).read_bytes()
        own = (read(f"{role}/tls.key"), read(f"{role}/tls.crt")) if role else (None, None)
        credentials = grpc.ssl_channel_credentials(read("ca.crt"), *own)
        if token:
            bearer = grpc.access_token_call_credentials((self.keys / token / "token").read_text())
            credentials = grpc.composite_channel_credentials(credentials, bearer)
        return grpc.secure_channel(f"localhost:{self.run_.address}", credentials)

    def status(self, role: str | None, token: str | None) -> object:
        """Asks for the status with a role's certificate and a token."""
        with self.channel(role, token) as channel:
            return Reflected(channel).call("StatusService", "GetStatus").status

    def refused(self, code: grpc.StatusCode, role: str | None, token: str | None) -> None:
        with self.assertRaises(grpc.RpcError) as raised:
            self.status(role, token)
        self.assertEqual(raised.exception.code(), code)


class ByToken(WithKeys, unittest.TestCase):
    """The keys as they are made by default: the coordinator shows a certificate, callers a token alone."""

    flags = []

    def test_with_a_token_it_answers(self) -> None:
        for role in ("viewer", "operator"):
            self.assertEqual(list(self.status(None, role).waiting), ["workers: 0 of 1 are ready"])

    def test_without_one_or_with_a_worker_s_it_does_not(self) -> None:
        self.refused(grpc.StatusCode.UNAUTHENTICATED, None, None)
        self.refused(grpc.StatusCode.PERMISSION_DENIED, None, "worker")

    def test_a_client_that_trusts_another_authority_hangs_up(self) -> None:
        subprocess.run([MEDLEY, "init-certs", "others"], cwd=self.folder.name, check=True, capture_output=True)
        credentials = grpc.ssl_channel_credentials((self.keys.parent / "others/ca.crt").read_bytes())
        with grpc.secure_channel(f"localhost:{self.run_.address}", credentials) as channel:
            with self.assertRaises(grpc.RpcError) as raised:
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)

    def test_an_operator_s_token_gives_orders_and_a_viewer_s_does_not(self) -> None:
        for role, code in (("operator", grpc.StatusCode.NOT_FOUND), ("viewer", grpc.StatusCode.PERMISSION_DENIED)):
            with self.channel(None, role) as channel, self.assertRaises(grpc.RpcError) as raised:
                Reflected(channel).call("OperatorService", "Drain", {"worker": 4711})
            self.assertEqual(raised.exception.code(), code, role)


class Mutual(WithKeys, unittest.TestCase):
    """Certificates for both sides, and tokens."""

    flags = ["--mutual"]

    def test_with_certificate_and_token_it_answers(self) -> None:
        for role in ("viewer", "operator"):
            self.assertEqual(list(self.status(role, role).waiting), ["workers: 0 of 1 are ready"])

    def test_without_one_or_the_other_it_does_not(self) -> None:
        self.refused(grpc.StatusCode.UNAVAILABLE, None, "viewer")
        self.refused(grpc.StatusCode.UNAUTHENTICATED, "viewer", None)
        self.refused(grpc.StatusCode.PERMISSION_DENIED, "viewer", "worker")

    def test_in_the_clear_it_does_not_answer(self) -> None:
        with grpc.insecure_channel(f"localhost:{self.run_.address}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            with self.assertRaises(grpc.RpcError) as raised:
                stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)
        # The other port is in the clear, and tells no more than that it lives.
        with grpc.insecure_channel(f"127.0.0.1:{self.run_.http}") as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            self.assertEqual(answer.status, HEALTH.SERVING)

    def test_the_json_of_the_command_is_the_same_status(self) -> None:
        words = [MEDLEY, "status", "--json", "--coordinator", f"localhost:{self.run_.address}"]
        shown = subprocess.run([*words, "--credentials", self.keys / "viewer"], check=True, capture_output=True)
        status = self.status("viewer", "viewer")
        self.assertEqual(json.loads(shown.stdout)["run"], status.run)


if __name__ == "__main__":
    unittest.main(verbosity=2)
