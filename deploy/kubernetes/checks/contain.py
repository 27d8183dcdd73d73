"""Becomes a container's first process: what a container runtime does, as far as files, users and privileges go.

Run as `unshare --pid --mount --ipc --uts --fork python3 contain.py SPEC`, as root: it is process 1 of a new
namespace then, and so is the program that it turns into.
"""

import ctypes
import json
import os
import subprocess
import sys

DEVICES = ("null", "zero", "full", "random", "urandom")
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
LAST_CAPABILITY = 40


def mount(*words):
    """mount(8)."""
    subprocess.run(["mount", *words], check=True)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        spec = json.load(file)
    root = spec["root"]
    mount("--make-rprivate", "/")
    mount("--bind", root, root)
    mount("-t", "proc", "-o", "nosuid,nodev,noexec", "proc", f"{root}/proc")
    mount("-t", "tmpfs", "-o", "nosuid,size=64k,mode=755", "tmpfs", f"{root}/dev")
    for device in DEVICES:
        open(f"{root}/dev/{device}", "w", encoding="utf-8").close()
        mount("--bind", f"/dev/{device}", f"{root}/dev/{device}")
    os.mkdir(f"{root}/dev/shm")
    for volume in spec["mounts"]:
        target = root + volume["target"]
        if "source" in volume:
            mount("--bind", volume["source"], target)
        else:
            # An emptyDir belongs to the pod's fsGroup.
            mount("-t", "tmpfs", "-o", f"nosuid,nodev,size={volume['bytes']},mode=2777,gid={spec['gid']}", "tmpfs", target)
        if volume["read_only"]:
            mount("-o", "remount,bind,ro", target)
    mount("-o", "remount,bind,ro", root)
    subprocess.run(["hostname", spec["hostname"]], check=True)

    os.chroot(root)
    os.chdir("/tmp")
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(LAST_CAPABILITY + 1):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"drop capability {capability}")
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    os.setgroups([spec["gid"]])
    os.setresgid(spec["gid"], spec["gid"], spec["gid"])
    os.setresuid(spec["uid"], spec["uid"], spec["uid"])
    os.execve(spec["argv"][0], spec["argv"], spec["env"])


main()
