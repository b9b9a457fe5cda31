"""The chart rendered by helm, as objects."""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "k8s" / "chart" / "tiltserve"
TOOLS = ROOT / "k8s" / ".tools"
HELM = str(TOOLS / "helm") if (TOOLS / "helm").exists() else shutil.which("helm")
LACKING = "expected helm on PATH or in k8s/.tools (make chart-tools fetches it), got none"
NAME, NAMESPACE = "steer", "models"
Object = dict[str, Any]

SECRETS = {
    "tls": {"source": "secret", "secretName": "my-tls", "caSecretName": "my-authority"},
    "internalTls": {"source": "secret", "secretName": "my-internal"},
    "tokens": {"source": "secret", "secretName": "my-tokens", "testSecretName": "my-test"},
    "internalToken": {"secretName": "my-word"},
    "rayToken": {"secretName": "my-ray"},
    "monitoring": {"metricsTokenSecretName": "my-metrics"},
}
VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one of each": {"front": {"replicas": 1}, "directory": {"replicas": 1}, "replicas": {"count": 1}},
    "open": {
        "insecure": True,
        "tls": {"source": "none"},
        "internalTls": {"source": "none"},
        "tokens": {"source": "none"},
        "networkPolicy": {"enabled": False},
    },
    "own secrets": SECRETS,
    "cert-manager": {
        "tls": {"source": "certManager", "issuer": {"name": "world"}, "dnsNames": ["draw.example.com"]},
        "internalTls": {"source": "certManager"},
    },
    "cert-manager's own issuer": {
        "tls": {"source": "certManager", "issuer": {"name": "world", "kind": "Issuer"}},
        "internalTls": {"source": "certManager", "issuer": {"name": "inside", "kind": "ClusterIssuer"}},
    },
    "client certificates": {
        "tls": {"clientCaSecretName": "my-clients", "clientCertSecretName": "my-client"},
        "tokens": {"source": "none"},
        "monitoring": {"podMonitor": {"enabled": True}},
    },
    "claim": {
        "models": {"source": "claim", "claim": {"name": "models", "subPath": "v2"}},
        "replicas": {"cacheClaim": "cache", "count": 5, "minAvailable": 3},
    },
    "volume of an image": {"models": {"source": "image", "image": {"reference": "registry.example.com/models:3"}}},
    "store": {
        "models": {
            "source": "store",
            "store": {"url": "s3://models/of/ours", "pollSeconds": 60, "secretName": "store"},
            "artifacts": "s3://models/made",
        },
    },
    "init container": {
        "models": {
            "source": "init",
            "init": {"image": "registry.example.com/copy:1", "command": ["copy"], "args": ["s3://models", "/models"]},
        }
    },
    "gpu": {"replicas": {"gpu": {"provider": "cuda", "runtimeClassName": "nvidia"}}},
    "mig": {
        "replicas": {
            "gpu": {"provider": "tensorrt", "resource": "nvidia.com/mig-1g.10gb"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "nodeSelector": {"nvidia.com/mig.strategy": "mixed"},
        }
    },
    "redis": {"head": {"redis": {"address": "redis.data.svc:6379", "secretName": "redis"}}},
    "autoscaler": {"front": {"autoscaling": {"enabled": True}}},
    "keda": {"front": {"keda": {"enabled": True}}},
    "monitored": {
        "monitoring": {
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "rules": {"enabled": True},
            "dashboards": {"enabled": True},
        }
    },
    "many things": {
        "fullnameOverride": "draw",
        "bind": "::",
        "drainSeconds": 300,
        "settings": {"access_log": True, "model_memory": "4GiB", "rewards": {"taste": "food.example.com:9001"}},
        "imagePullSecrets": [{"name": "registry"}],
        "image": {"digest": "sha256:" + "0" * 64},
        "front": {
            "service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]},
            "podLabels": {"team": "draw"},
            "podAnnotations": {"a": "b"},
            "maxUnavailable": "25%",
            "maxConnectionAgeSeconds": 0,
            "extraEnv": [{"name": "TILTSERVE_LOG_LEVEL", "value": "debug"}],
        },
        "networkPolicy": {
            "clients": [{"namespaceSelector": {}}],
            "replicaEgress": [{"ports": [{"port": 9001, "protocol": "TCP"}]}],
        },
        "test": {"rewardArguments": {}},
    },
}
"""Values to render the chart with, by what they are about."""


def helm(*arguments: str, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Helm's answer; it looks for a cluster nowhere."""
    assert HELM is not None, LACKING
    given = ["--values", "-"] if values else []
    return subprocess.run(
        [HELM, *arguments, *given],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": "/dev/null"},
    )


def template(values: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """What `helm template` says; hooks are in it."""
    return helm("template", NAME, str(CHART), "--namespace", NAMESPACE, values=values)


@functools.cache
def rendered(case: str) -> list[Object]:
    """The objects of a case of `VALUES`."""
    ran = template(VALUES[case])
    assert ran.returncode == 0, ran.stderr
    return [each for each in yaml.safe_load_all(ran.stdout) if each]


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Objects of a kind by name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pods(objects: list[Object]) -> dict[str, Object]:
    """What every pod is made of (metadata and spec), by its component."""
    return {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in _templates(objects)}


def containers(pod: Object) -> list[Object]:
    """All of a pod, those that run before it too."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def _templates(objects: list[Object]) -> Iterator[Object]:
    for each in objects:
        match each["kind"]:
            case "Pod":
                yield {"metadata": each["metadata"], "spec": each["spec"]}
            case "Deployment" | "StatefulSet":
                yield each["spec"]["template"]
            case "RayService":
                cluster = each["spec"]["rayClusterConfig"]
                yield from (group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]))
