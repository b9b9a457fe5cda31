"""Run a command in a network of its own with a way out, and print the packets that it sends there.

`unshare --net python outside.py COMMAND...`, as root of the network: it has a loopback, and a default route to a
second interface on which nobody answers. Each packet is a line `udp 10.255.255.53:53 <its first bytes>` after a line
`outside:`.
"""

import socket
import subprocess
import sys
import threading

HERE, GATEWAY = "10.9.9.1", "10.9.9.2"
IPV4 = 0x0800
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def described(frame: bytes) -> str:
    packet = frame[14:]
    start = 4 * (packet[0] & 15)
    port = int.from_bytes(packet[start + 2 : start + 4], "big")
    return (
        f"{PROTOCOLS.get(packet[9], packet[9])} {socket.inet_ntoa(packet[16:20])}:{port} {packet[start + 8 :][:60]!r}"
    )


def main(command: list[str]) -> int:
    ip("link", "set", "lo", "up")
    ip("link", "add", "way", "type", "veth", "peer", "name", "out", "address", "02:00:00:00:00:01")
    ip("addr", "add", f"{HERE}/24", "dev", "way")
    for name in ("way", "out"):
        ip("link", "set", name, "up")
    ip("neigh", "add", GATEWAY, "lladdr", "02:00:00:00:00:01", "dev", "way")  # else packets would wait for its answer
    ip("route", "add", "default", "via", GATEWAY)
    seen: list[str] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(IPV4)) as listener:
        listener.bind(("out", IPV4))

        def listen() -> None:
            while frame := listener.recv(2048):
                seen.append(described(frame))

        threading.Thread(target=listen, daemon=True).start()
        code = subprocess.run(command, check=False).returncode
    print("outside:", *seen, sep="\n", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
