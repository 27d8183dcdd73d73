"""Containers without a container runtime: a pod's files, user and privileges, as its manifest has them."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

from . import quantity
from .command import expanded

CONTAIN = Path(__file__).with_name("contain.py")
BINARIES = "/usr/local/bin"
PATIENCE_S = 300
"""The longest that anything is waited for; a run that goes on says so more often."""


class Sandbox:
    """A folder with an image's files, and what volumes hold."""

    def __init__(self, folder, programs, hosts):
        self.folder, self.root, self.started = Path(folder), Path(folder, "root"), 0
        os.chmod(folder, 0o755)
        for name in ("proc", "dev", "tmp", "etc", "run", "data", "out", BINARIES[1:]):
            Path(self.root, name).mkdir(parents=True)
        for name, path in programs.items():
            shutil.copy2(path, f"{self.root}{BINARIES}/{name}")
            self._libraries(path)
        Path(self.root, "etc/hosts").write_text("127.0.0.1 localhost " + " ".join(hosts) + "\n")

    def _libraries(self, program):
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for path in re.findall(r"(/\S+)", said) + ["/lib/x86_64-linux-gnu/libnss_files.so.2"]:
            target = Path(str(self.root) + path)
            if os.path.exists(path) and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(os.path.realpath(path), target)

    def volume(self, name, files=None, gid=None):
        """The folder of a volume, with these files."""
        place = self.folder / "volumes" / name
        if not place.exists():
            place.mkdir(parents=True)
            for file, content in (files or {}).items():
                (place / file).write_bytes(content)
                os.chmod(place / file, 0o440)
                os.chown(place / file, 0, gid or 0)
            os.chown(place, 0, gid or 0)
            os.chmod(place, 0o2775)
        return place

    def start(self, pod, container, index, contents):
        """Starts a container of a pod. `contents`: what Secrets and ConfigMaps hold, by name."""
        security, volumes, mounts = pod.spec["securityContext"], pod.volumes(), []
        gid = security["fsGroup"]
        for mount in container.get("volumeMounts", []):
            mounts.append(self._mount(mount, volumes[mount["name"]], (pod.name, contents, gid)))
        command, words = expanded(pod, container)
        name = (command or ["medley-worker" if pod.role == "worker" else "medley"])[0]
        env = {it["name"]: it.get("value", pod.coordinator) for it in container.get("env", [])}
        self.started += 1
        spec = self.folder / f"container-{self.started}.json"
        spec.write_text(json.dumps({
            "root": str(self.root), "mounts": mounts, "hostname": f"{pod.name}-{index}", "uid": security["runAsUser"],
            "gid": gid, "argv": [f"{BINARIES}/{name}", *words], "env": {"PATH": BINARIES, "HOME": "/", **env}}))
        return Container(f"{pod.name}-{index}/{container['name']}", spec)

    def _mount(self, mount, volume, by):
        owner, contents, gid = by
        target, read_only = mount["mountPath"], mount.get("readOnly", False)
        at = Path(str(self.root) + target)
        if "emptyDir" in volume and volume["emptyDir"].get("medium") == "Memory":
            size = int(quantity.parse(volume["emptyDir"]["sizeLimit"]))
            # /dev is a file system of its own, in which contain.py makes the folder.
            return {"target": target, "bytes": size, "read_only": read_only}
        files = None
        if "configMap" in volume:
            files = contents[volume["configMap"]["name"]]
        for source in (volume.get("projected") or {}).get("sources", []):
            secret = contents.get(source["secret"]["name"])
            if secret is None and source["secret"].get("optional"):
                continue
            files = {**(files or {}), **secret}
        if "secret" in volume:
            files = contents[volume["secret"]["secretName"]]
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        source = self.volume(claim or f"{owner}-{volume['name']}", files, gid)
        if "subPath" in mount:
            source = source / mount["subPath"]
            at.parent.mkdir(parents=True, exist_ok=True)
            at.touch()
        else:
            at.mkdir(parents=True, exist_ok=True)
        return {"target": target, "source": str(source), "read_only": read_only}


class Container:
    """A container that runs, or has ended."""

    def __init__(self, name, spec):
        self.name, self.lines, self._news = name, [], threading.Condition()
        self.process = subprocess.Popen(
            ["unshare", "--pid", "--mount", "--ipc", "--uts", "--fork", "python3", str(CONTAIN), str(spec)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()
        with self._news:
            self.lines.append(None)
            self._news.notify_all()

    def pid(self):
        """Its first process, as this system numbers it."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def wait_for(self, words, count=1):
        """Until it has said `words` so often."""
        until = time.monotonic() + PATIENCE_S
        with self._news:
            while sum(words in line for line in self.lines if line) < count:
                if self.lines[-1:] == [None] or not self._news.wait(until - time.monotonic()):
                    raise AssertionError(f"{self.name} does not say {words!r}:\n" + self.said())

    def terminate(self):
        """What a kubelet does to a pod's containers; answers when."""
        os.kill(self.pid(), signal.SIGTERM)
        return time.monotonic()

    def ends(self, code):
        """Waits for its end for as long as it says something now and then, and that it is this one."""
        with self._news:
            while self.lines[-1:] != [None]:
                if not self._news.wait(PATIENCE_S):
                    raise AssertionError(f"{self.name} says nothing any more, and does not end:\n" + self.said())
        found = self.process.wait(PATIENCE_S)
        if found != code:
            raise AssertionError(f"{self.name} ended with {found}, not {code}:\n" + self.said())
        return time.monotonic()

    def processes(self):
        """The states of all processes in it, by their number in this system, without its first."""
        first, found = self.pid(), {}
        inside = os.readlink(f"/proc/{first}/ns/pid")
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and int(entry.name) != first and os.readlink(entry / "ns/pid") == inside:
                    found[int(entry.name)] = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                # It has ended while it was looked at.
                continue
        return found

    def kill(self):
        """Ends it, whatever it does."""
        if self.process.poll() is None:
            # Its first process, with which all others in it end; unshare alone would leave it behind.
            os.kill(self.pid(), signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def said(self):
        """Its last lines."""
        return "\n".join(line for line in self.lines[-30:] if line)
