"""Runs the chart's pods with podman: fronts, directories, Ray's head and replicas, as their templates are rendered.

    python -m k8s.pods              # needs root, podman, helm (make chart-tools) and both images

It is what KubeRay, kubelet and DNS do elsewhere: gives pods addresses and names, mounts secrets and settings, starts
Ray, hands it the applications, waits until fronts are ready, runs the pod of `helm test`, draws steered digits with
tritonclient, and ends everything. Of the templates it changes what podman 4 lacks: volumes are folders of this machine,
the pod's address is written out, and Ray's object store lies in /tmp.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import yaml

ROOT = Path(__file__).resolve().parents[1]
NAME, NAMESPACE = "steer", "default"
SMALL: dict[str, Any] = {
    "directory": {"replicas": 1},
    "front": {"replicas": 1},
    "replicas": {"count": 1, "threads": 1, "objectStoreMemory": 80_000_000},
}
START_S = 600.0
Object = dict[str, Any]


def main() -> int:
    """0 where the digits that were drawn are the steered ones."""
    began = time.monotonic()
    objects = rendered()
    folder = Path(tempfile.mkdtemp(prefix="tiltserve-pods-"))
    folder.chmod(0o755)
    pods = Pods(objects, folder)
    try:
        for name, template, command in pods.wanted():
            pods.start(name, template, command)
            print(f"{time.monotonic() - began:6.1f} s  {name} at {pods.addresses[name]}", flush=True)
        until("Ray's dashboard", lambda: pods.dashboard("GET", "/api/version") is not None)
        until(
            "the applications are taken",
            lambda: pods.dashboard("PUT", "/api/serve/applications/", pods.serve()) is not None,
        )
        print(f"{time.monotonic() - began:6.1f} s  Ray has the applications", flush=True)
        front = pods.addresses[f"{pods.full}-front-0"]
        assert status(f"http://{front}:8007/live") == 200
        until("a front is ready", lambda: status(f"http://{front}:8007/ready") == 200)
        print(f"{time.monotonic() - began:6.1f} s  the front is ready", flush=True)
        steered, plain = draw(pods, front)
        print(f"rewards, mean of 8: plain {plain:.2f}, steered {steered:.2f}", flush=True)
        tested = pods.test()
        print(f"helm's test: exit code {tested}", flush=True)
        stopping = time.monotonic()
        podman("pod", "stop", "--time", "60", f"{pods.full}-front-0")
        print(f"the front ended in {time.monotonic() - stopping:.1f} s", flush=True)
        return 0 if tested == 0 and steered > plain + 1 else 1
    except BaseException:
        pods.show()
        raise
    finally:
        pods.end()
        shutil.rmtree(folder, ignore_errors=True)


def rendered() -> list[Object]:
    """The chart's objects."""
    tool = ROOT / "k8s" / ".tools" / "helm"
    helm = str(tool) if tool.exists() else "helm"
    chart = str(ROOT / "k8s" / "chart" / "tiltserve")
    command = [helm, "template", NAME, chart, "--namespace", NAMESPACE, "--values", "-"]
    ran = subprocess.run(command, input=json.dumps(SMALL), capture_output=True, text=True, check=True)
    return [each for each in yaml.safe_load_all(ran.stdout) if each]


def podman(*arguments: str, given: str | None = None) -> str:
    ran = subprocess.run(["podman", *arguments], input=given, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"podman {' '.join(arguments)}: {ran.stderr.strip()}")
    return ran.stdout


def until(what: str, true: Callable[[], bool]) -> None:
    end = time.monotonic() + START_S
    while not true():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: expected within {START_S:g} s")
        time.sleep(1)


def status(url: str) -> int:
    try:
        return int(urllib.request.urlopen(url, timeout=5).status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def draw(pods: "Pods", front: str) -> tuple[float, float]:
    """Mean rewards of steered and of plain digits, drawn by an unmodified Triton client."""
    tls = pods.secrets[f"{pods.full}-tls"]
    authority = pods.folder / "ca.crt"
    authority.write_bytes(tls["ca.crt"])
    token = pods.secrets[f"{pods.full}-tokens"]["token"].decode()
    headers = {"authorization": f"Bearer {token}"}
    options = [("grpc.ssl_target_name_override", pods.full)]
    means = []
    with triton.InferenceServerClient(
        f"{front}:8001", ssl=True, root_certificates=str(authority), channel_args=options
    ) as client:
        until("both models are served", lambda: all(map(client.is_model_ready, ("digits", "classifier"))))
        for more in ({}, {"steering": "none"}):
            asked = {"samples": 8, "seed": 0, "reward": "classifier", "reward_label": 7, **more}
            answer = client.infer("digits", [], parameters=asked, headers=headers, client_timeout=120)
            rewards = answer.as_numpy("rewards")
            assert rewards is not None
            means.append(float(np.mean(rewards)))
    return means[0], means[1]


class Pods:
    """Pods of the rendered chart, each with an address of podman's bridge."""

    def __init__(self, objects: list[Object], folder: Path) -> None:
        self.objects, self.folder = objects, folder
        self.kinds: dict[tuple[str, str], Object] = {(each["kind"], each["metadata"]["name"]): each for each in objects}
        self.full = next(name for kind, name in self.kinds if kind == "RayService")
        self.secrets = {
            name: {key: base64.b64decode(value) for key, value in each.get("data", {}).items()}
            | {key: value.encode() for key, value in each.get("stringData", {}).items()}
            for (kind, name), each in self.kinds.items()
            if kind == "Secret"
        }
        names = [name for name, _, _ in self.wanted()] + [f"{self.full}-test"]
        self.addresses = {name: f"10.88.77.{10 + number}" for number, name in enumerate(names)}
        self._started = list[str]()

    def wanted(self) -> list[tuple[str, Object, list[str] | None]]:
        """(name, template, command) of each pod that runs on."""
        directories = self.kinds["StatefulSet", f"{self.full}-directory"]["spec"]
        cluster = self.kinds["RayService", self.full]["spec"]["rayClusterConfig"]
        head, (group,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
        made: list[tuple[str, Object, list[str] | None]] = [
            (f"{self.full}-directory-{number}", directories["template"], None)
            for number in range(directories["replicas"])
        ]
        made.append((f"{self.full}-head", head["template"], self._ray(head, ["--head", "--port=6379"])))
        joined = self._ray(group, [f"--address={self.full}-head-svc:6379"])
        made += [(f"{self.full}-replica-{number}", group["template"], joined) for number in range(group["replicas"])]
        front = self.kinds["Deployment", f"{self.full}-front"]["spec"]
        made += [(f"{self.full}-front-{number}", front["template"], None) for number in range(front["replicas"])]
        return made

    def _ray(self, group: Object, more: list[str]) -> list[str]:
        """What KubeRay makes of `rayStartParams`."""
        options = [
            f"--{key}" if value == "true" else f"--{key}={value}" for key, value in group["rayStartParams"].items()
        ]
        return ["ray", "start", "--block", "--plasma-directory=/tmp", *options, *more]

    def start(self, name: str, template: Object, command: list[str] | None = None) -> None:
        """Starts a pod of a template."""
        spec = json.loads(json.dumps(template["spec"]))
        for container in spec["containers"]:
            self._fit(container, name, command)
        spec["volumes"] = [self._volume(name, each) for each in spec["volumes"] if each["name"] != "shared-mem"]
        head = self.addresses[f"{self.full}-head"]
        spec["hostAliases"] = [
            {"ip": self.addresses[other], "hostnames": [f"{other}.{self.full}-directory.{NAMESPACE}.svc"]}
            for other in self.addresses
            if "-directory-" in other
        ]
        front = self.addresses[f"{self.full}-front-0"]
        spec["hostAliases"] += [
            {"ip": head, "hostnames": [f"{self.full}-head-svc"]},
            {"ip": front, "hostnames": [f"{self.full}.{NAMESPACE}.svc"]},
        ]
        labels = template["metadata"]["labels"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
        self._started.append(name)
        podman("play", "kube", "--network=podman", f"--ip={self.addresses[name]}", "-", given=yaml.safe_dump(pod))

    def _fit(self, container: Object, name: str, command: list[str] | None) -> None:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle"):
            container.pop(probe, None)  # podman would run them inside the container, with programs that it lacks
        container.pop("ports", None)  # it would open them on this machine
        container["imagePullPolicy"] = "Never"
        container["volumeMounts"] = [each for each in container["volumeMounts"] if each["name"] != "shared-mem"]
        if command is not None:
            container["command"] = command
        for each in container.get("env", []):
            source = each.pop("valueFrom", None)
            if source is not None and "secretKeyRef" in source:
                key = source["secretKeyRef"]
                each["value"] = self.secrets[key["name"]][key["key"]].decode()
            elif source is not None:
                assert source["fieldRef"]["fieldPath"] == "status.podIP"
                each["value"] = self.addresses[name]

    def _volume(self, pod: str, volume: Object) -> Object:
        """A folder of this machine, with what is in the secret or the settings."""
        name = volume["name"]
        path = self.folder / pod / name
        path.mkdir(parents=True)
        (self.folder / pod).chmod(0o755)
        content: dict[str, bytes] = {}
        if "secret" in volume:
            found = self.secrets[volume["secret"]["secretName"]]
            kept = [(each["key"], each["path"]) for each in volume["secret"].get("items", [])]
            content = {to: found[key] for key, to in kept or [(key, key) for key in found]}
        elif "configMap" in volume:
            found_map = self.kinds["ConfigMap", volume["configMap"]["name"]]["data"]
            content = {key: value.encode() for key, value in found_map.items()}
        for key, data in content.items():
            (path / key).write_bytes(data)
            (path / key).chmod(0o644)
        path.chmod(0o755 if content else 0o1777)
        return {"name": name, "hostPath": {"path": str(path), "type": "Directory"}}

    def serve(self) -> Object:
        """The applications, as KubeRay hands them over."""
        found: Object = yaml.safe_load(self.kinds["RayService", self.full]["spec"]["serveConfigV2"])
        return found

    def dashboard(self, method: str, path: str, body: Object | None = None) -> str | None:
        """What Ray's dashboard answers; None while it does not."""
        secret = self.kinds["RayService", self.full]["spec"]["rayClusterConfig"]["authOptions"]["secretName"]
        token = self.secrets[secret]["auth_token"].decode()
        url = f"http://{self.addresses[f'{self.full}-head']}:8265{path}"
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, data, headers, method=method), timeout=60
            ) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {url}: {error.code} {error.read().decode()[:500]}") from None
        except OSError:
            return None

    def test(self) -> int:
        """Runs the pod of `helm test`; its exit code."""
        name = f"{self.full}-test"
        pod = self.kinds["Pod", name]
        self.start(name, pod)
        container = f"{name}-{pod['spec']['containers'][0]['name']}"
        code = int(podman("wait", container).strip())
        print(podman("logs", container).strip()[:600], flush=True)
        return code

    def show(self) -> None:
        """What Ray says of the applications, and the last lines of every pod."""
        with contextlib.suppress(Exception):
            print(self.dashboard("GET", "/api/serve/applications/"), file=sys.stderr)
        for name in self._started:
            ran = subprocess.run(["podman", "pod", "logs", "--tail", "15", name], capture_output=True, text=True)
            print(f"--- {name}\n{ran.stdout}{ran.stderr}", file=sys.stderr)

    def end(self) -> None:
        """Removes every pod that was started."""
        for name in reversed(self._started):
            subprocess.run(["podman", "pod", "rm", "--force", "--time", "5", name], capture_output=True)


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("error: expected root, whose podman gives pods addresses that this machine reaches")
    sys.exit(main())
