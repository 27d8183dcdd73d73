"""Hosts of their own on one machine, joined by a switch that loses, delays and cuts what passes: Linux, root, /dev/net/tun.

Each host is a network namespace with a tun device; a thread here carries the packets from one to another.
"""

import ctypes
import fcntl
import heapq
import os
import random
import selectors
import struct
import subprocess
import threading
import time
from dataclasses import dataclass

TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000
DEVICE = "medley0"


@dataclass
class Wire:
    """What happens to packets in one direction."""

    loss: float = 0.0
    delay_s: float = 0.0


class Switch:
    """`hosts` hosts, 10.77.0.1 the first of them."""

    def __init__(self, hosts: int, seed: int = 1) -> None:
        self.names = [f"medley-{os.getpid()}-{host}" for host in range(hosts)]
        self.wires = {(source, target): Wire() for source in range(hosts) for target in range(hosts)}
        self.chance, self.carried, self.lost = random.Random(seed), 0, 0
        self._stop = threading.Event()
        self._devices = []
        for host, name in enumerate(self.names):
            ip("netns", "add", name)
            self._devices.append(device_in(name))
            ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", DEVICE)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", DEVICE, "mtu", "1500", "up")
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    @staticmethod
    def address(host: int) -> str:
        """A host's address."""
        return f"10.77.0.{host + 1}"

    def on(self, host: int) -> list[str]:
        """What a command begins with that is to run on a host."""
        return ["ip", "netns", "exec", self.names[host]]

    def set(self, pairs: list[tuple[int, int]] | None = None, **wire: float) -> float:
        """Sets all wires, or those of these pairs, in the given direction; returns when."""
        for pair in pairs or list(self.wires):
            self.wires[pair] = Wire(**wire)
        return time.monotonic()

    def cut(self, host: int, others: list[int]) -> float:
        """Cuts a host off from others, in both directions."""
        return self.set([pair for other in others for pair in ((host, other), (other, host))], loss=1.0)

    def close(self) -> None:
        """Takes all hosts away."""
        self._stop.set()
        self._thread.join()
        for device in self._devices:
            os.close(device)
        for name in self.names:
            ip("netns", "delete", name)

    def _carry(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []
        number = 0
        with selectors.DefaultSelector() as ready:
            for host, device in enumerate(self._devices):
                ready.register(device, selectors.EVENT_READ, host)
            while not self._stop.is_set():
                pause = waiting[0][0] - time.monotonic() if waiting else 0.05
                for key, _ in ready.select(max(0.0, min(pause, 0.05))):
                    packet = os.read(key.fd, 65536)
                    # IPv4 alone; the last byte of the target's address is its number.
                    target = packet[19] - 1 if packet[0] >> 4 == 4 else -1
                    wire = self.wires.get((key.data, target))
                    if wire is None:
                        continue
                    self.carried += 1
                    if self.chance.random() < wire.loss:
                        self.lost += 1
                        continue
                    number += 1
                    heapq.heappush(waiting, (time.monotonic() + wire.delay_s, number, target, packet))
                while waiting and waiting[0][0] <= time.monotonic():
                    _, _, target, packet = heapq.heappop(waiting)
                    try:
                        os.write(self._devices[target], packet)
                    except OSError:
                        self.lost += 1


def device_in(namespace: str) -> int:
    """Opens a tun device in a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    here, there = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
        return device
    finally:
        libc.setns(here, CLONE_NEWNET)
        os.close(here)
        os.close(there)


def ip(*words: str) -> None:
    """Runs `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
