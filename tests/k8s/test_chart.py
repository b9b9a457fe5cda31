"""The chart, rendered over a matrix of values and held against rules: Kubernetes' schemas of every version since 1.30,
pod security's level "restricted", and what fronts, directories and replicas need of each other."""

import base64
import hashlib
import json
import subprocess
import sys
from typing import Any

import pytest
import yaml
from cryptography import x509

from deploy.cli import app
from deploy.commands.sample import split_rewards
from deploy.settings import PREFIX, Settings, settings_elsewhere
from tests.k8s.looked_up import cluster
from tests.k8s.reachability import Peer, reaches
from tests.k8s.rendering import (
    CHART,
    HELM,
    LACKING,
    NAME,
    NAMESPACE,
    ROOT,
    VALUES,
    Object,
    containers,
    helm,
    of_kind,
    pods,
    rendered,
    template,
)
from tests.k8s.schemas import SCHEMAS, faults

pytestmark = pytest.mark.skipif(HELM is None, reason=LACKING)
with_schemas = pytest.mark.skipif(
    not SCHEMAS.exists(), reason="expected Kubernetes' schemas in k8s/.tools (make chart-tools fetches them), got none"
)
of_every_case = pytest.mark.parametrize("case", VALUES)
VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
CRDS = {"ray.io", "cert-manager.io", "keda.sh", "monitoring.coreos.com"}
FULL = f"{NAME}-tiltserve"
RAY = (6379, 6380, 6381, 6382, 6383, 6384, 8265, 10002, 10101, 52365)
UNKNOWN = "other"


def settings_of(objects: list[Object]) -> dict[str, Any]:
    (found,) = (
        of_kind(objects, "ConfigMap").values()
        if len(of_kind(objects, "ConfigMap")) == 1
        else [each for name, each in of_kind(objects, "ConfigMap").items() if name.endswith("-settings")]
    )
    return yaml.safe_load(found["data"]["settings.yaml"])


def rayservice(objects: list[Object]) -> Object:
    (found,) = of_kind(objects, "RayService").values()
    return found["spec"]


def args(objects: list[Object]) -> dict[str, Any]:
    (application,) = yaml.safe_load(rayservice(objects)["serveConfigV2"])["applications"]
    return application["args"]


def test_helm_finds_no_fault():
    ran = helm("lint", "--strict", str(CHART))
    assert ran.returncode == 0, ran.stdout


@with_schemas
@of_every_case
def test_kubernetes_knows_every_field(case: str):
    objects = [each for each in rendered(case) if each["apiVersion"].partition("/")[0] not in CRDS]
    made = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **pod["metadata"]}, "spec": pod["spec"]}
        for name, pod in pods(rendered(case)).items()
    ]
    # every version for the case with most, the ends of the range for the others
    for version in VERSIONS if case == "defaults" else (VERSIONS[0], VERSIONS[-1]):
        for each in [*objects, *made]:
            if version == "1.30" and any("image" in volume for volume in each.get("spec", {}).get("volumes", [])):
                continue  # volumes of images are younger
            assert faults(each, version) == [], each["metadata"]["name"]


@with_schemas
def test_a_field_that_is_none_is_noticed():
    (deployment,) = of_kind(rendered("defaults"), "Deployment").values()
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 3}}
    assert any("replica" in fault for fault in faults(wrong, VERSIONS[0]))


@of_every_case
def test_pods_are_restricted(case: str):
    for name, pod in pods(rendered(case)).items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        allowed = {"name", "secret", "configMap", "emptyDir", "persistentVolumeClaim", "image"}
        assert all(volume.keys() <= allowed for volume in spec["volumes"]), name
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, container["name"]
            assert context["readOnlyRootFilesystem"] is True, container["name"]
            assert context["capabilities"] == {"drop": ["ALL"]}, container["name"]
            assert not {"privileged", "runAsUser"} & context.keys(), container["name"]
            assert not any("hostPort" in port for port in container.get("ports", [])), container["name"]


@of_every_case
def test_containers_are_bounded_and_probed(case: str):
    for name, pod in pods(rendered(case)).items():
        for container in containers(pod):
            for bound in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][bound].keys(), container["name"]
        if name == "test":
            continue
        for container in pod["spec"]["containers"]:
            assert {"livenessProbe", "readinessProbe"} <= container.keys(), name  # KubeRay would put its own there
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                (asked,) = [
                    value for key, value in container.get(probe, {}).items() if key in ("tcpSocket", "httpGet")
                ] or [{"port": 1}]
                assert isinstance(asked["port"], int) or asked["port"] in ports, (name, probe)


@of_every_case
def test_everything_that_is_mounted_or_named_is_there(case: str):
    objects = rendered(case)
    accounts = of_kind(objects, "ServiceAccount")
    assert all(each["automountServiceAccountToken"] is False for each in accounts.values())
    mine = set(of_kind(objects, "Secret"))
    mine |= {each["spec"]["secretName"] for each in of_kind(objects, "Certificate").values()}
    for name, pod in pods(objects).items():
        spec = pod["spec"]
        assert spec.get("serviceAccountName", next(iter(accounts))) in accounts, name
        volumes = {volume["name"] for volume in spec["volumes"]}
        used = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
        assert used == volumes, name
        named = [volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume]
        named += [
            each["valueFrom"]["secretKeyRef"]["name"]
            for container in containers(pod)
            for each in container.get("env", [])
            if "secretKeyRef" in each.get("valueFrom", {})
        ]
        assert all(secret in mine or secret.startswith("my-") for secret in named), named


@of_every_case
def test_selectors_choose_the_pods_that_they_mean(case: str):
    objects = rendered(case)
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(objects).items()}
    selectors = {("Service", name): each["spec"]["selector"] for name, each in of_kind(objects, "Service").items()}
    for kind in ("PodDisruptionBudget", "Deployment", "StatefulSet", "PodMonitor"):
        for name, each in of_kind(objects, kind).items():
            selectors[kind, name] = each["spec"]["selector"]["matchLabels"]
    for (kind, name), selector in selectors.items():
        chosen = {pod for pod, found in labels.items() if selector.items() <= found.items()}
        assert chosen == {selector["app.kubernetes.io/component"]}, (kind, name)
    for name, each in of_kind(objects, "Service").items():
        ports = {
            port["name"]
            for port in pods(objects)[each["spec"]["selector"]["app.kubernetes.io/component"]]["spec"]["containers"][0][
                "ports"
            ]
        }
        assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports, name


@of_every_case
def test_budgets_let_nodes_be_drained(case: str):
    objects = rendered(case)
    counts = {
        "front": VALUES[case].get("front", {}).get("replicas", 2),
        "directory": VALUES[case].get("directory", {}).get("replicas", 2),
        "replica": VALUES[case].get("replicas", {}).get("count", 2),
    }
    for each in of_kind(objects, "PodDisruptionBudget").values():
        spec = each["spec"]
        count = counts[spec["selector"]["matchLabels"]["app.kubernetes.io/component"]]
        assert spec.get("minAvailable", 0) < count
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@of_every_case
def test_grace_exceeds_what_an_end_takes(case: str):
    objects = rendered(case)
    settings = settings_of(objects)
    front = pods(objects)["front"]["spec"]
    slept = front["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert (
        front["terminationGracePeriodSeconds"] > slept + settings["lame_duck_seconds"] + settings["drain_seconds"] + 5
    )
    replica = pods(objects)["replica"]["spec"]
    env = {each["name"]: each.get("value") for each in replica["containers"][0]["env"]}
    drain = int(env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    # Serve gives a replica drain_seconds + lame_duck_seconds + 10
    assert (
        replica["terminationGracePeriodSeconds"]
        > drain
        > settings["drain_seconds"] + settings["lame_duck_seconds"] + 10
    )


@of_every_case
def test_the_server_takes_its_settings(case: str):
    objects = rendered(case)
    settings = settings_of(objects)
    assert args(objects) == settings
    taken = settings_elsewhere(settings)
    assert taken.release == settings["release"]
    names = {f"{NAME}-tiltserve-directory", "draw-directory"}
    assert len(taken.directory) == of_kind(objects, "StatefulSet").popitem()[1]["spec"]["replicas"]
    assert all(each.partition(".")[2].partition(".")[0] in names for each in taken.directory)
    known = {PREFIX + field.upper() for field in Settings.model_fields} | {PREFIX + "CONFIG", PREFIX + "TOKEN"}
    for name, pod in pods(objects).items():
        for container in containers(pod):
            told = {each["name"] for each in container.get("env", []) if each["name"].startswith(PREFIX)}
            assert told <= known, name
    mounts = {
        name: {mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
        for name, pod in pods(objects).items()
    }
    files = [value for key, value in settings.items() if isinstance(value, str) and value.startswith("/etc/")]
    for path in files:
        folders = {path, path.rpartition("/")[0]}
        assert folders & mounts["front"], path
        assert folders & mounts["replica"], path


@of_every_case
def test_ray_has_what_this_release_was_built_for(case: str):
    objects = rendered(case)
    cluster = rayservice(objects)["rayClusterConfig"]
    pinned = (ROOT / "requirements.lock").read_text().split("\nray==")[1].split()[0]
    assert cluster["rayVersion"] == pinned
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    settings = settings_of(objects)
    assert group["replicas"] == settings["replicas"]
    assert group["rayStartParams"]["num-cpus"] == str(settings["threads_per_replica"])
    assert cluster["authOptions"]["mode"] == "token"
    for name in ("head", "replica"):
        (container,) = pods(objects)[name]["spec"]["containers"]
        env = {each["name"]: each for each in container["env"]}
        secret = env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert env["RAY_AUTH_MODE"]["value"] == "token"
        assert secret == {"name": cluster["authOptions"]["secretName"], "key": "auth_token"}
        assert any(port["name"] == "serve-grpc" for port in container["ports"])
    assert len(next(iter(of_kind(objects, "RayService")))) <= 41


@of_every_case
def test_network_policies_let_through_what_is_needed_and_no_more(case: str):
    objects = rendered(case)
    policies = list(of_kind(objects, "NetworkPolicy").values())
    if not policies:
        assert case == "open"
        return
    peers = {name: Peer(pod["metadata"]["labels"], NAMESPACE) for name, pod in pods(objects).items()}
    peers["operator"] = Peer({"app.kubernetes.io/name": "kuberay-operator"}, "kuberay-operator")
    peers["prometheus"] = Peer({}, "monitoring")
    peers[UNKNOWN] = Peer({"app.kubernetes.io/component": "front"}, NAMESPACE)
    wanted = {("front", "directory", 8004), ("replica", "directory", 8004), ("front", "replica", 8005)}
    wanted |= {("prometheus", "front", 8002), ("prometheus", "replica", 8006), ("operator", "head", 8265)}
    wanted |= {("replica", "head", port) for port in RAY}
    nodes = set(RAY) - {6379, 8265}
    wanted |= {(a, b, port) for a in ("head", "replica") for b in ("head", "replica") for port in nodes}
    wanted |= {
        ("test", "front", 8001),
        ("operator", "front", 8001),
        ("prometheus", "front", 8001),
        (UNKNOWN, "front", 8001),
    }
    if VALUES[case].get("networkPolicy", {}).get("replicaEgress"):
        assert reaches(policies, NAMESPACE, peers["replica"], Peer({}, "elsewhere"), 9001)
    ports = {8001, 8002, 8004, 8005, 8006, 8007, 22, *RAY}
    found = {
        (a, b, port)
        for a, source in peers.items()
        for b, target in peers.items()
        if b in ("front", "directory", "replica", "head", "test")
        for port in ports
        if reaches(policies, NAMESPACE, source, target, port)
    }
    assert found == wanted


def test_certificates_and_tokens_that_are_made_fit():
    secrets = of_kind(rendered("defaults"), "Secret")
    for name, asked in (("tls", f"{FULL}.{NAMESPACE}.svc"), ("internal-tls", "tiltserve")):
        data = {key: base64.b64decode(value) for key, value in secrets[f"{FULL}-{name}"]["data"].items()}
        leaf, authority = (x509.load_pem_x509_certificate(data[key]) for key in ("tls.crt", "ca.crt"))
        leaf.verify_directly_issued_by(authority)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert asked in names.get_values_for_type(x509.DNSName)
    tokens = secrets[f"{FULL}-tokens"]["stringData"]
    (identity,) = yaml.safe_load(tokens["tokens.yaml"])["identities"].values()
    assert identity == {"sha256": [hashlib.sha256(tokens["token"].encode()).hexdigest()], "rights": "all"}
    assert len({json.dumps(each.get("data")) for each in secrets.values()}) == len(secrets)


def test_names_that_come_later_are_in_a_certificate_of_the_same_authority():
    """And an upgrade that changes none of them changes no secret."""
    first = rendered("defaults")

    def upgraded(values: dict[str, Any]) -> dict[str, Any]:
        with cluster(first, NAME, NAMESPACE) as server:
            asked = ["--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", server]
            ran = helm("template", NAME, str(CHART), "--namespace", NAMESPACE, *asked, values=values)
        assert ran.returncode == 0, ran.stderr
        found = of_kind([each for each in yaml.safe_load_all(ran.stdout) if each], "Secret")
        return {name: each.get("data") or each.get("stringData") for name, each in found.items()}

    before = {name: each.get("data") or each.get("stringData") for name, each in of_kind(first, "Secret").items()}
    assert upgraded({"drainSeconds": 31}) == before
    after = upgraded({"tls": {"dnsNames": ["draw.example.com"]}})
    assert {name for name in before if after[name] != before[name]} == {f"{FULL}-tls"}
    new, old = after[f"{FULL}-tls"], before[f"{FULL}-tls"]
    assert new["ca.crt"] == old["ca.crt"] == before[f"{FULL}-tls-authority"]["tls.crt"]
    leaf, authority = (x509.load_pem_x509_certificate(base64.b64decode(new[key])) for key in ("tls.crt", "ca.crt"))
    leaf.verify_directly_issued_by(authority)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "draw.example.com" in names.get_values_for_type(x509.DNSName)


def test_helms_test_draws_with_options_that_exist():
    (pod,) = of_kind(rendered("defaults"), "Pod").values()
    (container,) = pod["spec"]["containers"]
    name, *options = container["args"]
    rest, rewards = split_rewards(options)
    assert rewards == {"label": "7"}
    import typer

    command: Any = typer.main.get_command(app)
    sample = command.commands[name]
    context = sample.context_class(sample, info_name=name)
    values, _, given = sample.make_parser(context).parse_args(rest)
    for parameter in set(given):
        parameter.process_value(context, values[parameter.name])
    assert values["model"] == "digits"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"front": {"replica": 3}}, "replica"),
        ({"replica": {}}, "replica"),
        ({"settings": {"drain_second": 3}}, "drain_second"),
        ({"settings": {"replica_port": 3}}, "replica_port"),  # the chart's own
        ({"models": {"source": "s3"}}, "source"),
        ({"front": {"replicas": "two"}}, "replicas"),
        ({"replicas": {"resources": {"limits": {"cpu": 1, "memory": "1Gi"}, "request": {}}}}, "request"),
        ({"image": {"digest": "abc"}}, "digest"),
        ({"fullnameOverride": "Draw"}, "fullnameOverride"),
        ({"tls": {"source": "none"}}, "insecure: expected true"),
        (
            {"tls": {"clientCaSecretName": "a"}, "monitoring": {"podMonitor": {"enabled": True}}},
            "tls.clientCertSecretName: expected",
        ),
        ({"tls": {"source": "secret"}}, "tls.secretName: expected"),
        ({"tls": {"source": "certManager"}}, "tls.issuer.name: expected"),
        ({"models": {"source": "claim"}}, "models.claim.name: expected"),
        ({"models": {"source": "image"}}, "models.image.reference: expected"),
        ({"models": {"source": "init"}}, "models.init.image: expected"),
        ({"models": {"source": "store"}}, "models.store.url: expected"),
        ({"models": {"source": "store", "store": {"url": "ftp://x"}}}, "models/store/url"),
        ({"tokens": {"source": "secret"}}, "tokens.secretName: expected"),
        ({"front": {"autoscaling": {"enabled": True}, "keda": {"enabled": True}}}, "front.keda.enabled: expected"),
    ],
)
def test_values_with_a_mistake_are_refused_by_name(values: dict[str, Any], told: str):
    ran = template(values)
    assert ran.returncode != 0
    assert told in ran.stderr


def test_the_schema_knows_every_value_and_nothing_else():
    def keys(node: dict[str, Any], at: str = "") -> set[str]:
        return {
            found
            for key, inner in node.items()
            for found in {at + key, *(keys(inner, f"{at}{key}.") if isinstance(inner, dict) else ())}
        }

    def known(schema: dict[str, Any], at: str = "") -> set[str]:
        properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
        return {found for key, inner in properties.items() for found in {at + key, *known(inner, f"{at}{key}.")}}

    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    free = ("settings.", "global")
    given = {key for key in keys(values) if not key.startswith(free)}
    described = {key for key in known(schema) if not key.startswith(free)}
    open_ended = {"resources", "podLabels", "labels", "annotations", "nodeSelector", "rewardArguments", "spreadOver"}
    assert {key for key in given if not open_ended & set(key.split(".")[:-1])} == described
    fields = set(schema["properties"]["settings"]["properties"])
    assert fields <= Settings.model_fields.keys()
    own = {key for case in VALUES for key in settings_of(rendered(case)) if key not in VALUES[case].get("settings", {})}
    none = {"socket", "address", "announce", "metrics_host", "replica_ports", "allow_shared_memory"}
    none |= {"http_port", "http_allow_origin", "http_allow_host"}  # of a server on one machine
    none |= {"max_replicas", "target_backlog_seconds", "scale_out_seconds", "scale_in_seconds"}  # pods are counted
    assert fields == Settings.model_fields.keys() - (own - {"log_format"}) - none


@of_every_case
def test_callers_show_and_trust_what_fronts_want(case: str):
    """Helm's test and Prometheus: TLS where there is TLS, certificates where clients must have them."""
    objects = rendered(case)
    settings, (test,) = settings_of(objects), pods(objects)["test"]["spec"]["containers"]
    options = dict(each.partition("=")[::2] for each in test["args"])
    assert options["--address"].startswith("grpcs://") == ("tls_cert" in settings)
    assert ("--tls-cert" in options) == ("--tls-key" in options) == ("tls_client_ca" in settings)
    assert ("--tls-ca" in options) == (case != "open" and "cert-manager" not in case)
    folders = {mount["mountPath"] for mount in test["volumeMounts"]}
    files = {value for name, value in options.items() if name.startswith("--tls-")}
    assert {path.rpartition("/")[0] for path in files} <= folders
    for name, each in of_kind(objects, "PodMonitor").items():
        (endpoint,) = each["spec"]["podMetricsEndpoints"]
        shown = "cert" in endpoint.get("tlsConfig", {})
        assert shown == ("internal_tls" in settings if name.endswith("replica") else "tls_client_ca" in settings)


def test_a_release_scales_on_its_own_load():
    def asked(values: dict[str, Any]) -> str:
        ran = template({"front": {"keda": {"enabled": True, **values}}})
        (scaled,) = of_kind([each for each in yaml.safe_load_all(ran.stdout) if each], "ScaledObject").values()
        return scaled["spec"]["triggers"][0]["metadata"]["query"]

    assert asked({}) == f'sum(tiltserve_requests_in_flight{{namespace="{NAMESPACE}", pod=~"{FULL}-front-.*"}})'
    assert asked({"query": "max(x)"}) == "max(x)"


def test_the_notes_say_how_to_draw():
    ran = helm("install", NAME, str(CHART), "--namespace", NAMESPACE, "--dry-run=client")
    assert ran.returncode == 0, ran.stderr
    assert f"helm test {NAME} -n {NAMESPACE}" in ran.stdout
    assert "INSECURE" not in ran.stdout


def test_the_charts_page_is_fresh():
    ran = subprocess.run([sys.executable, "-m", "k8s.readme", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_rules_and_monitors_are_those_of_the_project():
    objects = rendered("monitored")
    (rules,) = of_kind(objects, "PrometheusRule").values()
    groups = rules["spec"]["groups"]
    files = [ROOT / "deploy" / "monitoring" / name for name in ("alerts.yaml", "recording.yaml")]
    wanted = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    assert {each["name"]: each for each in groups} == {each["name"]: each for each in wanted}
    assert len(groups) == len(wanted)
    paths = {
        name.rpartition("-")[2]: endpoint["path"]
        for name, each in of_kind(objects, "PodMonitor").items()
        for endpoint in each["spec"]["podMetricsEndpoints"]
    }
    assert paths == {"front": "/metrics/front", "replica": "/metrics"}
    boards = {path.name for path in (ROOT / "deploy" / "monitoring" / "dashboards").glob("*.json")}
    assert boards == {key for each in of_kind(objects, "ConfigMap").values() for key in each["data"]} - {
        "settings.yaml"
    }
