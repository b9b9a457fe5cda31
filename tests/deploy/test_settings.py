"""Settings: precedence, and refusals that name where the value came from."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deploy.settings import Server, Settings, SettingsError, load_settings


def file(folder: Path, text: str) -> Path:
    path = folder / "tiltserve.yaml"
    path.write_text(text)
    return path


def test_defaults(tmp_path: Path) -> None:
    settings = load_settings(models=tmp_path, environment={})
    assert settings == Settings(models=tmp_path)
    assert (settings.host, settings.grpc_port, settings.metrics_port) == ("127.0.0.1", 8001, 8002)
    assert (settings.replicas, settings.max_bucket, settings.replica_ports) == (1, 256, (0, 0))
    assert not settings.allow_model_control


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    config = file(tmp_path, f"models: {tmp_path}\nreplicas: 2\ngrpc_port: 9001\nmax_bucket: 8\n")
    environment = {"TILTSERVE_REPLICAS": "3", "TILTSERVE_GRPC_PORT": "9002", "HOME": "/root"}
    settings = load_settings(config, environment=environment, grpc_port=9003, host=None)
    assert settings.grpc_port == 9003
    assert settings.replicas == 3
    assert settings.max_bucket == 8
    assert settings.host == "127.0.0.1"


def test_the_environment_may_name_the_file_and_a_flag_another(tmp_path: Path) -> None:
    config = file(tmp_path, f"models: {tmp_path}\nreplicas: 2\n")
    environment = {"TILTSERVE_CONFIG": str(config)}
    assert load_settings(environment=environment).replicas == 2
    other = tmp_path / "other.yaml"
    other.write_text(f"models: {tmp_path}\nreplicas: 5\n")
    assert load_settings(other, environment=environment).replicas == 5


@pytest.mark.parametrize("written", ["8100-8199", "8100,8199", (8100, 8199), [8100, 8199]])
def test_port_ranges(tmp_path: Path, written: Any) -> None:
    assert load_settings(models=tmp_path, environment={}, replica_ports=written).replica_ports == (8100, 8199)


@pytest.mark.parametrize(
    "written",
    [
        ["taste=10.0.0.1:9001", "smell=[::1]:9002"],
        "taste=10.0.0.1:9001, smell=[::1]:9002",
        {"taste": "10.0.0.1:9001", "smell": "[::1]:9002"},
    ],
)
def test_addresses_of_rewards(tmp_path: Path, written: Any) -> None:
    settings = load_settings(models=tmp_path, environment={}, rewards=written)
    assert settings.rewards == {"taste": "10.0.0.1:9001", "smell": "[::1]:9002"}
    assert load_settings(models=tmp_path, environment={"TILTSERVE_REWARDS": "a=b:1"}).rewards == {"a": "b:1"}
    config = file(tmp_path, f"models: {tmp_path}\nrewards: {{taste: 'food.svc:9001'}}\n")
    assert load_settings(config, environment={}).rewards == {"taste": "food.svc:9001"}
    assert load_settings(models=tmp_path, environment={}).rewards == {}


def test_typed_text_from_the_environment(tmp_path: Path) -> None:
    environment = {
        "TILTSERVE_ALLOW_MODEL_CONTROL": "true",
        "TILTSERVE_DRAIN_SECONDS": "1.5",
        "TILTSERVE_REPLICA_PORTS": "1-9",
    }
    settings = load_settings(models=tmp_path, environment=environment)
    assert settings.allow_model_control is True
    assert settings.drain_seconds == 1.5
    assert settings.replica_ports == (1, 9)


def service(name: str, port: int, port_name: str = "grpc", protocol: str = "tcp") -> dict[str, str]:
    """What Kubernetes puts into the environment of every pod beside a Service, and Docker for a link."""
    url, one = f"{protocol}://10.0.0.1:{port}", f"{name}_PORT_{port}_{protocol.upper()}"
    return {
        f"{name}_SERVICE_HOST": "10.0.0.1",
        f"{name}_SERVICE_PORT": str(port),
        f"{name}_SERVICE_PORT_{port_name.upper().replace('-', '_')}": str(port),
        f"{name}_PORT": url,
        one: url,
        f"{one}_PROTO": protocol,
        f"{one}_PORT": str(port),
        f"{one}_ADDR": "10.0.0.1",
    }


@pytest.mark.parametrize(
    "environment",
    [
        service("TILTSERVE", 8001),
        service("TILTSERVE", 8001, "http-metrics", "udp") | {"TILTSERVE_SERVICE_HOST": "fd00::1"},
        service("TILTSERVE_METRICS", 8002),  # a Service called tiltserve-metrics: its variable is that of a setting
        service("TILTSERVE_GRPC", 8001, protocol="sctp"),
        service("TILTSERVE_MODELS", 80) | service("TILTSERVE_HOST", 80),
        service("TILTSERVE", 8001) | {"TILTSERVE_NAME": "/web/tiltserve", "TILTSERVE_ENV_PATH": "/bin"},
    ],
)
def test_the_variables_of_a_kubernetes_service_are_no_settings(tmp_path: Path, environment: dict[str, str]) -> None:
    assert load_settings(models=tmp_path, environment=environment) == Settings(models=tmp_path)
    set_too = environment | {"TILTSERVE_METRICS_PORT": "9002", "TILTSERVE_HOST": "0.0.0.0", "TILTSERVE_INSECURE": "1"}
    settings = load_settings(models=tmp_path, environment=set_too)
    assert (settings.host, settings.grpc_port, settings.metrics_port) == ("0.0.0.0", 8001, 9002)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TILTSERVE_GRPC_PORTS", "tcp://10.0.0.1:8001"),
        ("TILTSERVE_PORT", "9001"),
        ("TILTSERVE_GRPC_PORT", "http://10.0.0.1:8001"),
        ("TILTSERVE_SERVICE_PROT", "8001"),
        ("TILTSERVE_PORT_8001", "8001"),
    ],
)
def test_what_only_looks_like_a_service_is_refused(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        load_settings(models=tmp_path, environment={variable: value})


def test_threads_share_the_cores_out(tmp_path: Path) -> None:
    assert Settings(models=tmp_path, threads_per_replica=3).threads == 3
    assert Settings(models=tmp_path, replicas=1000).threads == 1


def test_models_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_settings(models="models", environment={}).models == (tmp_path / "models").resolve()


def test_a_models_folder_that_cannot_be_named_or_found(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for path, why in (
        (tmp_path / "m\udcff", "whose name is not UTF-8"),
        (tmp_path / "circle", "Symlink loop"),
        (Path("~nobody-of-that-name/models"), "Could not determine home directory"),
    ):
        with pytest.raises(SettingsError, match=f"--models: expected .*{why}") as caught:
            load_settings(models=path, environment={})
        assert "\n" not in str(caught.value)


def test_frozen_and_picklable(tmp_path: Path) -> None:
    settings = Settings(models=tmp_path)
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(ValidationError):
        settings.replicas = 2


@pytest.mark.parametrize(("written", "size"), [("4GiB", 2**32), ("1.5 GB", 15 * 10**8), ("1000", 1000), (7, 7)])
def test_sizes_of_memory(tmp_path: Path, written: object, size: int) -> None:
    assert load_settings(models=tmp_path, environment={}, model_memory=written).model_memory == size


@pytest.mark.parametrize(
    ("text", "environment", "flags", "expected"),
    [
        ("replcas: 2", {}, {}, "{config}: unknown key 'replcas', did you mean 'replicas'?"),
        (
            "",
            {"TILTSERVE_REPLCAS": "2"},
            {},
            "unknown environment variable 'TILTSERVE_REPLCAS', did you mean 'TILTSERVE_REPLICAS'?",
        ),
        ("", {}, {"replcas": 2}, "unknown key 'replcas', did you mean 'replicas'?"),
        ("replicas: two", {}, {}, "{config}: replicas: expected a valid integer, got 'two'"),
        ("", {"TILTSERVE_REPLICAS": "two"}, {}, "TILTSERVE_REPLICAS: expected a valid integer, got 'two'"),
        ("replicas: 2", {}, {"replicas": 0}, "--replicas: expected greater than or equal to 1, got 0"),
        ("", {}, {"grpc_port": 70000}, "--grpc-port: expected less than or equal to 65535, got 70000"),
        ("", {}, {"grpc_port": 8002}, "metrics_port: expected another port than grpc_port, got 8002 for both"),
        ("", {}, {"replica_ports": "9-1"}, "--replica-ports: expected LOW-HIGH with LOW <= HIGH"),
        ("", {}, {"replica_ports": "many"}, "--replica-ports: expected LOW-HIGH, got 'many'"),
        (
            "replicas: 3",
            {},
            {"replica_ports": "1-2"},
            "--replica-ports: expected at least 3 ports, one a replica, got 1-2",
        ),
        (
            "",
            {},
            {"models": "/no/such/place"},
            "--models: expected a folder of models, got '/no/such/place', which does not exist",
        ),
        ("", {}, {"rewards": ["taste"]}, "--reward: expected NAME=HOST:PORT, got 'taste'"),
        ("", {}, {"rewards": ["a=b:1", "a=b:2"]}, "--reward: expected each name once, got 'a' twice"),
        ("", {}, {"rewards": ["a=http://b:1"]}, "--reward: a: expected HOST:PORT, got 'http://b:1'"),
        ("", {}, {"rewards": ["a=b:99999"]}, "--reward: a: expected HOST:PORT, got 'b:99999'"),
        ("", {}, {"rewards": ["client=b:1"]}, "--reward: expected a name of letters, digits and _, and not client"),
        (
            "rewards: {a b: 'c:1'}",
            {},
            {},
            "{config}: rewards: expected a name of letters, digits and _, and not client",
        ),
        ("rewards: 7", {}, {}, "{config}: rewards: expected a valid dictionary, got 7"),
        ("", {"TILTSERVE_REWARDS": "a"}, {}, "TILTSERVE_REWARDS: expected NAME=HOST:PORT, got 'a'"),
        ("", {}, {"model_memory": "much"}, "--model-memory: expected a number of bytes, such as 4GiB, got 'much'"),
        ("", {}, {"draws_dir_bytes": "0"}, "--draws-dir-bytes: expected greater than 0, got '0'"),
        ("model_memory: 0", {}, {}, "{config}: model_memory: expected greater than 0, got 0"),
        (
            "",
            {},
            {"models": "ftp://a/b"},
            "--models: expected a folder, or s3:// or gs:// or http:// or https://",
        ),
        ("", {}, {"models": "s3://"}, "--models: expected a folder, or s3://"),
        ("", {}, {"models": "https://user:secret@host/x"}, "--models: expected an address without credentials"),
        ("models: [a]", {}, {"models": None}, "{config}: models: expected a path, got ['a']"),
        ("", {}, {"artifacts": "https://a/b"}, "--artifacts: expected a folder, or s3:// or gs:// with a bucket"),
        ("", {}, {"answer_seconds": 0}, "--answer-seconds: expected greater than 0, got 0"),
        ("drain_seconds: .nan", {}, {}, "{config}: drain_seconds: expected a finite number, got nan"),
        ("log_level: loud", {}, {}, "{config}: log_level: expected 'debug', 'info', 'warning' or 'error', got 'loud'"),
        ("[1]", {}, {}, "{config}: expected keys and values, got [1]"),
        ("a: [", {}, {}, "{config}: expected YAML, got: "),
    ],
)
def test_refusals(tmp_path: Path, text: str, environment: dict[str, str], flags: dict[str, Any], expected: str) -> None:
    config = file(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_settings(config, environment=environment, **({"models": tmp_path} | flags))
    assert str(caught.value).startswith(expected.format(config=config))
    assert "\n" not in str(caught.value)


def test_no_models_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"models: expected a folder .*TILTSERVE_MODELS"):
        load_settings(environment={})
    with pytest.raises(SettingsError, match=r"expected a readable settings file, got: No such file"):
        load_settings(tmp_path / "none.yaml", environment={})


@pytest.mark.parametrize("written", [["a", "b"], "a, b", ("a", "b")])
def test_names_of_models_that_are_trusted(tmp_path: Path, written: Any) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert load_settings(models=tmp_path, environment={}, trust=written).trust == ("a", "b")
    assert load_settings(models=tmp_path, environment={"TILTSERVE_TRUST": "a"}).trust == ("a",)
    assert load_settings(models=tmp_path, environment={}).trust == ()
    with pytest.raises(SettingsError, match=r"trust: expected names of models in .*, got 'c'"):
        load_settings(models=tmp_path, environment={}, trust=["a", "c"])


FAR = "10.0.0.1"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"host": FAR}, "without TLS everybody could use and read it"),
        ({"host": FAR, "tokens": True}, "without TLS tokens would be readable on the way"),
        ({"host": FAR, "tls": True}, "or --tokens or --tls-client-ca, or --insecure, got 10.0.0.1: everybody who"),
        ({"host": FAR, "tls": True, "tokens": True}, "everybody who reaches it could read the metrics page"),
        ({"metrics_host": "0.0.0.0"}, "--metrics-host: expected a loopback address"),
        ({"replica_host": FAR}, "--replica-host: expected a loopback address, or --internal-tls, or --insecure"),
        ({"tls_key": "a"}, "--tls-key: expected a certificate and its key, got no --tls-cert"),
        ({"tls_cert": "a"}, "--tls-cert: expected a certificate and its key, got no --tls-key"),
        ({"tls_client_ca": "a"}, "--tls-client-ca: expected --tls-cert and --tls-key with it, got none"),
        ({"tokens": "none"}, "--tokens: expected a file, got "),
        ({"internal_tls": "."}, "--internal-tls: expected a folder with tls.crt, tls.key, ca.crt, got "),
        ({"socket": "s", "tls": True, "tls_client_ca": "a"}, "--socket: expected no --tls-client-ca with it"),
        (
            {"host": FAR, "insecure": True, "allow_shared_memory": True},
            "--allow-shared-memory: expected a loopback address or --socket with it, got 10.0.0.1",
        ),
    ],
)
def test_what_is_open_to_others_is_refused(tmp_path: Path, given: dict[str, Any], text: str) -> None:
    """By settings alone, before a port is opened; `--insecure` allows what is only unsafe."""
    with pytest.raises(SettingsError) as caught:
        load_settings(models=tmp_path, environment={}, **guards(tmp_path, given))
    assert text in str(caught.value)
    if "--insecure" in str(caught.value):
        load_settings(models=tmp_path, environment={}, insecure=True, **guards(tmp_path, given))


@pytest.mark.parametrize(
    "given",
    [
        {"host": "::1"},
        {"host": "localhost", "metrics_host": "127.0.0.2"},
        {"host": FAR, "socket": "s", "metrics_host": "127.0.0.1", "allow_shared_memory": True},
        {"host": FAR, "tls": True, "tokens": True, "metrics_token_file": "a"},
        {"host": FAR, "tls": True, "tokens": True, "metrics_host": "127.0.0.1"},
        {"host": FAR, "tls": True, "tls_client_ca": "a"},
    ],
)
def test_what_is_guarded_needs_no_more(tmp_path: Path, given: dict[str, Any]) -> None:
    settings = load_settings(models=tmp_path, environment={}, **guards(tmp_path, given))
    assert settings.inner_host in ("127.0.0.1", "::1")


def guards(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The settings, with files for those that name some; `tls` stands for a certificate and its key."""
    (folder / "a").write_text("")
    given = dict(given)
    if given.pop("tls", False):
        given |= {"tls_cert": "a", "tls_key": "a"}
    if given.get("tokens") is True:
        given["tokens"] = "a"
    plain = ("host", "metrics_host", "replica_host")
    return {key: value if key in plain or isinstance(value, bool) else folder / value for key, value in given.items()}


def test_more_of_a_server_than_its_address(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = f"models: {tmp_path}\nrewards: {{taste: {{address: 'food.svc:9001', ca: {tmp_path}/file}}, b: 'c:1'}}\n"
    found = load_settings(file(tmp_path, text), environment={})
    taste = found.rewards["taste"]
    assert isinstance(taste, Server)
    assert (taste.address, taste.encrypted, taste.ca, found.rewards["b"]) == (
        "food.svc:9001",
        True,
        tmp_path / "file",
        "c:1",
    )
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "taste: address: expected a value, got none"),
        ({"address": "far"}, "taste: expected HOST:PORT, got 'far'"),
        ({"address": "far:1", "tokens": "a"}, "taste: unknown key 'tokens', did you mean 'token_file'?"),
        ({"address": "far:1", "ca": "none"}, "taste: ca: expected a file, got "),
        ({"address": "far:1", "tls": True, "cert": "file"}, "expected cert and key together, got one of them"),
        (
            {"address": "far:1", "token_file": "file"},
            "expected tls: true or ca, got none: far:1 would be shown secrets",
        ),
    ],
)
def test_what_is_wrong_with_a_server(tmp_path: Path, given: dict[str, Any], text: str) -> None:
    """A token goes in plain text to this machine only."""
    (tmp_path / "file").write_text("")
    files = {key: tmp_path / value if key in ("ca", "cert", "token_file") else value for key, value in given.items()}
    with pytest.raises(SettingsError) as caught:
        load_settings(models=tmp_path, environment={}, rewards={"taste": files})
    assert text in str(caught.value)
    if "would be shown" in text:
        load_settings(models=tmp_path, environment={}, rewards={"taste": {**files, "address": "127.0.0.1:1"}})


def test_traces_go_to_a_collector_only_if_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(models=tmp_path, environment={}).otlp is None
    elsewhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://10.0.0.1:4317"}
    assert load_settings(models=tmp_path, environment=elsewhere).otlp is None
    for address in ("10.0.0.1:4317", "https://collector.svc:4317", "[::1]:4317"):
        assert load_settings(models=tmp_path, environment={}, otlp=address).otlp == address
    for address in ("collector", "ftp://a:1", "http://a:b", ""):
        with pytest.raises(SettingsError, match="--otlp: expected HOST:PORT"):
            load_settings(models=tmp_path, environment={}, otlp=address)
    with pytest.raises(SettingsError, match="--trace-ratio: expected less than or equal to 1"):
        load_settings(models=tmp_path, environment={}, trace_ratio=2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="--otlp: expected the package opentelemetry-exporter-otlp-proto-grpc"):
        load_settings(models=tmp_path, environment={}, otlp="10.0.0.1:4317")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"http_port": 70000}, "--http-port: expected less than or equal to 65535, got 70000"),
        ({"http_port": 8001}, "--http-port: expected another port than grpc_port and metrics_port, got 8001"),
        (
            {"http_port": 0, "socket": "s"},
            "--http-port: expected no --socket with it, which is open to this user alone",
        ),
        ({"http_port": 0, "host": "0.0.0.0"}, "--host: expected a loopback address, or --tls-cert and --tls-key"),
        ({"http_port": 0, "http_allow_origin": ["*"]}, "--http-allow-origin: expected --tokens with *, or any page"),
        ({"http_port": 0, "http_allow_origin": ["a.example"]}, "--http-allow-origin: expected origins such as"),
        ({"http_port": 0, "http_allow_origin": ["https://a/b"]}, "--http-allow-origin: expected origins such as"),
        ({"http_allow_origin": ["https://a"]}, "--http-allow-origin: expected --http-port with it, got none"),
        ({"http_allow_host": ["box"]}, "--http-allow-host: expected --http-port with it, got none"),
    ],
)
def test_the_http_port_opens_nothing_else(tmp_path: Path, given: dict[str, Any], text: str) -> None:
    assert load_settings(models=tmp_path, environment={}).http_port is None
    with pytest.raises(SettingsError) as caught:
        load_settings(models=tmp_path, environment={}, **given)
    assert str(caught.value).startswith(text)


def test_pages_and_names_of_the_http_port(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("")
    environment = {"TILTSERVE_HTTP_PORT": "0", "TILTSERVE_HTTP_ALLOW_ORIGIN": "https://a.example,http://b:3000"}
    found = load_settings(models=tmp_path, environment=environment, http_allow_host=["box"])
    assert (found.http_port, found.http_allow_host) == (0, ("box",))
    assert found.http_allow_origin == ("https://a.example", "http://b:3000")
    load_settings(models=tmp_path, environment={}, http_port=0, http_allow_origin=["*"], tokens=tmp_path / "tokens")
    service = {"TILTSERVE_HTTP_PORT": "tcp://10.0.0.1:8003"}  # as Kubernetes tells of a Service tiltserve-http
    assert load_settings(models=tmp_path, environment=service).http_port is None


def test_models_may_be_those_of_a_store(tmp_path: Path):
    settings = load_settings(models="s3://models/of/ours/", environment={}, trust=["a"], artifacts="gs://made/x")
    assert settings.repository == "s3://models/of/ours"
    assert settings.artifacts == "gs://made/x"
    assert settings.poll_seconds == 30
    assert load_settings(models="s3://models", environment={}, models_poll_seconds=0).poll_seconds is None
    assert load_settings(models=tmp_path, environment={}).poll_seconds is None
    assert load_settings(models=str(tmp_path), environment={}, models_poll_seconds=2).poll_seconds == 2
