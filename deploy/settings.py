"""The server's settings: flags win over the environment (`TILTSERVE_*`), that over a YAML file, that over defaults."""

import importlib.util
import ipaddress
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from deploy.cores import cores
from protos.complaint import complaint, shorten, unknown

PREFIX = "TILTSERVE_"
OF_CLIENTS = ("TILTSERVE_TOKEN", "TILTSERVE_ADDRESS")
"""Environment variables with our prefix that are no settings: the commands that ask a server read them."""
CONFIG = PREFIX + "CONFIG"  # names the file, as --config does
_FLAGS = {"rewards": "--reward", "networks": "--network", "ready_models": "--ready-model"}  # given once for each
_SERVICE = re.compile(
    rf"{PREFIX}(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?|ENV_\w+)"
)
_OF_VALUE = (
    (re.compile(rf"{PREFIX}(?:\w+_)?PORT"), re.compile(r"(?:tcp|udp|sctp)://\S+")),
    (re.compile(rf"{PREFIX}(?:\w+_)?NAME"), re.compile(r"/\S+/\S+")),
)


ELSEWHERE = "elsewhere"
"""In the context of a validation: files and folders are those of other machines."""


class SettingsError(ValueError):
    """A setting that cannot be used; the text is one line: where it came from, what was expected, what came."""


def _folder(path: Path, info: ValidationInfo) -> Path:
    path = _absolute(path)
    if _elsewhere_checked(info):
        return path
    try:
        os.fsencode(path).decode()
        if path.is_dir():
            return path
        fault = "not a folder" if path.exists() else "which does not exist"
    except OSError as error:  # a folder above it cannot be entered
        fault = str(error.strerror)
    except UnicodeDecodeError:  # it goes into messages between processes
        fault = "whose name is not UTF-8"
    raise ValueError(f"expected a folder of models, got {str(path)!r}, {fault}")


def _store(value: Any, schemes: Collection[str]) -> str | None:
    """The address of a store; None for what is none."""
    if not isinstance(value, str) or "://" not in value:
        return None
    if "@" in value:
        raise ValueError("expected an address without credentials, which the environment holds, got some")
    if not re.fullmatch(rf"({'|'.join(schemes)})://[^\s/?#@]+(/[^\s?#]*)?", value):
        expected = " or ".join(f"{each}://" for each in schemes)
        raise ValueError(f"expected a folder, or {expected} with a bucket or host and a path, got {shorten(value)}")
    return value.rstrip("/")


def _repository(value: Any, info: ValidationInfo) -> Any:
    return _store(value, ("s3", "gs", "http", "https")) or _folder(_path(value), info)


def _shelf(value: Any) -> Any:
    return _store(value, ("s3", "gs")) or _absolute(_path(value))


def _path(value: Any) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError(f"expected a path, got {shorten(value)}")
    return Path(value)


def _file(path: Path, info: ValidationInfo) -> Path:
    path = _absolute(path)
    if not path.is_file() and not _elsewhere_checked(info):
        fault = "not a file" if path.exists() else "which does not exist"
        raise ValueError(f"expected a file, got {str(path)!r}, {fault}")
    return path


def _elsewhere_checked(info: ValidationInfo) -> bool:
    """Whether files and folders lie on other machines, which look for them themselves."""
    return bool((info.context or {}).get(ELSEWHERE))


def _near(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _absolute(path: Path) -> Path:
    """Absolute, because Ray's workers have another working directory."""
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError) as error:  # ~ without a home, links in a circle
        raise ValueError(f"expected a path, got {str(path)!r}: {error}") from None


def _range(value: Any) -> Any:
    """`8100-8199` from a flag or the environment; a file may also write [8100, 8199]."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*[-,:]\s*(\d+)\s*", value)
        if match is None:
            raise ValueError(f"expected LOW-HIGH, got {value!r}")
        return match.groups()
    return value


def _addresses(value: Any) -> Any:
    """`NAME=HOST:PORT` from flags, or several with commas from the environment; a file may also write a mapping, whose
    values may be mappings that say more of a server."""
    if isinstance(value, str):
        value = [each for each in value.split(",") if each.strip()]
    if isinstance(value, dict):
        return {name: _server(name, each) for name, each in value.items()}
    if not isinstance(value, list):
        return value
    pairs = {}
    for each in value:
        name, equals, address = each.partition("=") if isinstance(each, str) else ("", "", "")
        if not equals:
            raise ValueError(f"expected NAME=HOST:PORT, got {each!r}")
        if name.strip() in pairs:
            raise ValueError(f"expected each name once, got {name.strip()!r} twice")
        pairs[name.strip()] = address.strip()
    return pairs


def _server(name: str, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        return Server.model_validate(value)
    except ValidationError as error:
        raise ValueError(f"{name}: {complaint(error, Server)}") from None


def _address(server: "str | Server") -> str:
    return server if isinstance(server, str) else server.address


def _reachable(addresses: dict[str, "str | Server"]) -> dict[str, "str | Server"]:
    for name, address in addresses.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name == "client":
            raise ValueError(f"expected a name of letters, digits and _, and not client, got {name!r}")
        if not _is_address(_address(address)):
            raise ValueError(f"{name}: expected HOST:PORT, got {_address(address)!r}")
    return addresses


def _collector(address: str) -> str:
    if not _is_address(re.sub(r"^https?://", "", address)):
        raise ValueError(f"expected HOST:PORT, http://HOST:PORT or https://HOST:PORT, got {address!r}")
    try:
        found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.grpc")
    except ModuleNotFoundError:  # not even what would hold it
        found = None
    if found is None:
        raise ValueError("expected the package opentelemetry-exporter-otlp-proto-grpc (pip install 'tiltserve[otlp]')")
    return address


def _elsewhere(networks: dict[str, "str | Server"]) -> dict[str, "str | Server"]:
    for name, server in networks.items():
        network = _address(server)
        address, slash, model = network.partition("/")
        if not _is_address(address) or bool(slash) != bool(re.fullmatch(r"[^\s/]+", model)):
            raise ValueError(f"{name}: expected HOST:PORT or HOST:PORT/MODEL, got {network!r}")
    return networks


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    named = re.fullmatch(r"[^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]", host) is not None
    return named and port.isdecimal() and 0 < int(port) < 65536


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _bytes(value: Any) -> Any:
    """`4GiB` or a number of bytes."""
    try:
        return TypeAdapter(ByteSize).validate_python(value)
    except ValidationError:
        raise ValueError(f"expected a number of bytes, such as 4GiB, got {value!r}") from None


def _names(value: Any) -> Any:
    """Names with commas between them from the environment; flags and a file give a list."""
    return [each.strip() for each in value.split(",") if each.strip()] if isinstance(value, str) else value


def _directories(found: tuple[str, ...]) -> tuple[str, ...]:
    for each in found:
        if not _is_address(each):
            raise ValueError(f"expected HOST:PORT, got {shorten(each)}")
        if found.count(each) > 1:
            raise ValueError(f"expected each directory once, got {shorten(each)} twice")
    return found


def _cluster(address: str) -> str:
    if address != "auto" and not _is_address(address):
        raise ValueError(f"expected auto or HOST:PORT of a Ray cluster, got {shorten(address)}")
    return address


def _origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for each in origins:
        if each != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/]+", each):
            raise ValueError(f"expected origins such as https://app.example.com, or *, got {shorten(each)}")
    return origins


def _ordered(ports: tuple[int, int]) -> tuple[int, int]:
    if ports[0] > ports[1] or (ports[0] == 0) != (ports[1] == 0):
        raise ValueError(f"expected LOW-HIGH with LOW <= HIGH, or 0-0 for any free port, got {ports[0]}-{ports[1]}")
    return ports


def _keyring(folder: Path, info: ValidationInfo) -> Path:
    folder = _absolute(folder)
    for name in KEYRING:
        if not (folder / name).is_file() and not _elsewhere_checked(info):
            raise ValueError(f"expected a folder with {', '.join(KEYRING)}, got {str(folder)!r} without {name}")
    return folder


STORE_S = 30.0
"""Seconds between looks at a store, where nothing else is said."""
KEYRING = ("tls.crt", "tls.key", "ca.crt")
"""Files of a folder of certificates, as Kubernetes' secrets and cert-manager name them."""
Port = Annotated[int, Field(ge=0, le=65535)]
PathOfFile = Annotated[Path, AfterValidator(_file)]


class Server(BaseModel):
    """A server of somebody else, where its address does not say enough.

    Attributes:
        address: HOST:PORT, of a network's server HOST:PORT/MODEL too.
        tls: whether it shows a certificate; also where `ca` is given.
        ca: of the authority that signed it; None for those that the world trusts.
        cert, key: what it is shown; None for nothing.
        token_file: holds a token for it; None for none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str
    tls: bool = False
    ca: PathOfFile | None = None
    cert: PathOfFile | None = None
    key: PathOfFile | None = None
    token_file: PathOfFile | None = None

    @property
    def encrypted(self) -> bool:
        return self.tls or self.ca is not None

    @model_validator(mode="after")
    def _shown(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("expected cert and key together, got one of them")
        if not self.encrypted and (self.cert is not None or not self._near_or_without()):
            raise ValueError(f"expected tls: true or ca, got none: {self.address} would be shown secrets in plain text")
        return self

    def _near_or_without(self) -> bool:
        return self.token_file is None or _near(_host(self.address.partition("/")[0]))


Addresses = Annotated[dict[str, str | Server], BeforeValidator(_addresses), AfterValidator(_reachable)]
Networks = Annotated[dict[str, str | Server], BeforeValidator(_addresses), AfterValidator(_elsewhere)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
PortRange = Annotated[tuple[Port, Port], BeforeValidator(_range), AfterValidator(_ordered)]


class Settings(BaseModel):
    """Everything the server can be told. Ports: 0 means any free port. Frozen, and safe to send to Ray's workers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    models: Annotated[Path | str, BeforeValidator(_repository)] | None = None
    """The model repository: a folder, or a store s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or http(s)://HOST/PATH. None
    only for processes without models."""
    models_cache: Annotated[Path, AfterValidator(_absolute)] = Path("~/.cache/tiltserve/models")
    """Where the models of a store are kept on this machine."""
    models_poll_seconds: float | None = Field(default=None, ge=0, le=86400)
    """How often the repository is looked at for new versions; 0 for never. None: a store every 30 s, a folder never."""
    release: str = Field(default="tiltserve", pattern=r"^[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?$")
    """The name of this server among others of one cluster: its directory, and its applications on a Ray cluster that
    others use too, are its own."""
    address: Annotated[str, AfterValidator(_cluster)] | None = None
    """A Ray cluster that exists, which this machine is a node of: auto, or HOST:PORT of its head. None: one of its own.
    """
    directory: Annotated[Names, AfterValidator(_directories)] = ()
    """HOST:PORT of directories in processes of their own, which know the replicas of several hosts. (): one in Ray."""
    directory_host: str = Field(default="127.0.0.1", min_length=1)
    """What such a directory binds to."""
    directory_port: Port = 8004
    announce: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """The address by which others reach this machine's fronts and replicas. None: what they are bound to, and where
    that is every address, the one by which this machine reaches the directory."""
    lame_duck_seconds: float | None = Field(default=None, ge=0, le=3600)
    """How long a front that was told to stop serves on while it reports NOT_SERVING, so that balancers leave it. None:
    5 for a front of its own, none for a server on one machine."""
    host: str = Field(default="127.0.0.1", min_length=1)
    """Every listener of the front binds to it. Others than loopback need TLS and tokens, or `insecure`."""
    socket: Annotated[Path, AfterValidator(_absolute)] | None = None
    """A Unix socket, for this user alone, that takes the place of the gRPC port."""
    metrics_host: Annotated[str, Field(min_length=1)] | None = None
    """What the metrics port binds to; None for `host`."""
    replica_host: Annotated[str, Field(min_length=1)] | None = None
    """What replicas and Ray bind to; None for loopback: front and replicas are on one machine."""
    tls_cert: PathOfFile | None = None
    """PEM certificate, with the chain behind it, of the gRPC and the metrics port. Read again when it changes."""
    tls_key: PathOfFile | None = None
    """Its key, without a passphrase."""
    tls_client_ca: PathOfFile | None = None
    """Certificates of the authority that must have signed clients' certificates; None: clients need none."""
    tokens: PathOfFile | None = None
    """YAML file of identities: hashes of tokens, rights, models, limits. None: nobody needs a token."""
    metrics_token_file: PathOfFile | None = None
    """File with the token that readers of the metrics page send; None: they need none."""
    internal_tls: Annotated[Path, AfterValidator(_keyring)] | None = None
    """Folder with tls.crt, tls.key and ca.crt for mutual TLS between front and replicas. None: plain text."""
    internal_token_file: PathOfFile | None = None
    """File with the token that fronts, directories and replicas show each other. None: one is made at every start, for
    processes of one server."""
    insecure: bool = False
    """Whether what is served beyond this machine may be open to everybody, or in plain text."""
    grpc_port: Port = 8001
    metrics_port: Port = 8002
    health_port: Port | None = None
    """Where `tiltserve front` answers the probes of an orchestrator, in plain HTTP on `metrics_host`: /live and /ready.
    None: nowhere."""
    http_port: Port | None = None
    """Of an endpoint that speaks OpenAI's images API over HTTP, guarded as the gRPC port. None: there is none."""
    http_allow_origin: Annotated[Names, AfterValidator(_origins)] = ()
    """Origins of pages that may call it from a browser, such as https://app.example.com, or * for all."""
    http_allow_host: Names = ()
    """Names that it is called by besides addresses and localhost; only looked at where nobody needs a token or TLS."""
    replicas: int = Field(default=1, ge=1, le=1024)
    max_replicas: int | None = Field(default=None, ge=1, le=1024)
    """The most replicas, where their number follows what waits; `replicas` is then the fewest. None: it is fixed."""
    target_backlog_seconds: float = Field(default=5.0, ge=0.01, le=86400)
    """Seconds of work that a replica may have before it, until there are more."""
    scale_out_seconds: float = Field(default=5.0, ge=0, le=86400)
    """How long more replicas must be wanted before they are started."""
    scale_in_seconds: float = Field(default=120.0, ge=0, le=86400)
    """How long fewer must be wanted before some are drained."""
    threads_per_replica: int | None = Field(default=None, ge=1, le=1024)
    """Threads of one replica's networks; None shares the cores out (see `threads`)."""
    max_bucket: int = Field(default=256, ge=1, le=4096)
    """The most rows in one network call; how many are best is measured for each model."""
    max_queue_rows: int = Field(default=2**24, ge=1)
    """Network rows a replica takes on; the default is just enough for one request of the largest legal size."""
    max_queue_memory: Annotated[int, BeforeValidator(_bytes), Field(gt=0)] = 2**32
    """About the most bytes that requests under way may take in one replica, such as 4GiB."""
    model_memory: Annotated[int, BeforeValidator(_bytes), Field(gt=0)] | None = None
    """The most bytes of models in one replica's memory, such as 4GiB: graphs, weights and banks. Those used least
    recently make room, and are loaded again when they are asked for. None: all stay."""
    draws_memory: Annotated[int, BeforeValidator(_bytes), Field(ge=0)] = 2**30
    """The most bytes of draws for steering under conditions that a replica keeps beside those in use, such as 4GiB."""
    draws_dir: Annotated[Path, AfterValidator(_absolute)] | None = None
    """A folder where replicas keep such draws for each other and for those that start later. None: in memory alone."""
    draws_dir_bytes: Annotated[int, BeforeValidator(_bytes), Field(gt=0)] = 2**33
    """The most bytes of files there, such as 8GiB; those used longest ago make room."""
    artifacts: Annotated[Path | str, BeforeValidator(_shelf)] | None = None
    """A folder, or a store s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, where replicas keep banks, calibrations and costs
    of calls that they made, for each other and for those that start later. None: each makes its own."""
    ready_with_bank: bool = False
    """Whether a model is ready only with its bank and calibration; what a new version replaces serves until then."""
    ready_models: Names = ()
    """Models without which a front is not ready at first. (): it is once a replica takes requests for any."""
    trust: Names = ()
    """Models that are served even if a row's answer depends on more than that row; every answer warns of it."""
    provider: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    """What runs the networks of this server, through ONNX Runtime."""
    gpus_per_replica: float = Field(default=1.0, gt=0)
    """GPUs that Ray reserves for a replica, with providers that need one; 0.5 lets two replicas share one."""
    tensorrt_cache: Annotated[Path, AfterValidator(_absolute)] = Path("~/.cache/tiltserve/tensorrt")
    """Where TensorRT's engines are kept: building one takes minutes."""
    tensorrt_fp16: bool = False
    """Whether TensorRT may compute in float16."""
    networks: Networks = Field(default_factory=dict)
    """HOST:PORT or HOST:PORT/MODEL, or a `Server`, by name of models whose network runs on another KServe v2 server;
    MODEL is its name there, if it is another one. The model's folder holds its card, and may hold its graph."""
    network_seconds: float = Field(default=30.0, gt=0)
    """How long one call to such a server may take, and how long loading waits for it."""
    drain_seconds: float = Field(default=30.0, ge=0)
    """How long running requests may take to finish once the server was told to stop."""
    allow_model_control: bool = False
    """Whether clients may load and unload models."""
    allow_shared_memory: bool = False
    """Whether clients may leave tensors in POSIX shared memory of the server's user. Only processes of this machine may
    be able to reach the server: another address than loopback is refused."""
    replica_ports: PortRange = (0, 0)
    """Ports of the replicas' own servers, both ends included."""
    replica_metrics_ports: PortRange | None = None
    """Ports of pages with each replica's own metrics, both ends included, for fleets whose replicas are scraped by
    themselves. None: no such pages, a front's page has the metrics of all replicas."""
    metrics_identities: int = Field(default=100, ge=0, le=10_000)
    """Callers that metrics count by name, the first that come; those that come later share the name `other`."""
    replica_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The port of every replica's own server, where each has an address of its own: one replica a node or pod."""
    rewards: Addresses = Field(default_factory=dict)
    """host:port, or a `Server`, by name of rewards that their owners serve (tiltserve.v1.Reward): requests name no
    addresses."""
    reward_seconds: float = Field(default=30.0, gt=0)
    """How long one call to such a reward may take, retries included."""
    reward_memory_seconds: float = Field(default=600.0, ge=0)
    """How long such a reward's scores of a model's bank may be used again; 0 for never."""
    answer_seconds: float = Field(default=60.0, gt=0)
    """How long a client that scores candidates itself may take for one batch, and one that reads a path for some."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    """Log lines for people, or one JSON object each."""
    max_message: Annotated[int, BeforeValidator(_bytes), Field(ge=2**22, lt=2**31)] = 2**28
    """The most bytes of one message, in either direction, counted once it is decompressed."""
    compression: Literal["none", "gzip", "deflate"] = "none"
    """How the front compresses answers, where the client takes it. Requests may come compressed in any case."""
    keepalive_seconds: float = Field(default=10.0, ge=1, le=7200)
    """How often a peer that has calls is pinged."""
    keepalive_timeout_seconds: float = Field(default=10.0, gt=0, le=3600)
    """A peer that does not answer a ping for so long is gone."""
    max_connection_age_seconds: float | None = Field(default=None, ge=1, le=30 * 86400)
    """How long a client's connection to the front lasts, so that clients find new fronts. None: as long as it likes."""
    max_streams: int = Field(default=1000, ge=1, lt=2**31)
    """The most calls under way on one connection to the front; more of them wait in the client."""
    access_log: bool = False
    """Whether the front logs a line for each call."""
    otlp: Annotated[str, AfterValidator(_collector)] | None = None
    """HOST:PORT of an OpenTelemetry collector that takes OTLP over gRPC, with https:// before it for TLS. None: traces
    are not made, and nothing is sent."""
    trace_ratio: float = Field(default=1.0, ge=0, le=1)
    """The share of requests that is traced, of those whose caller has not decided it."""

    @property
    def threads(self) -> int:
        """`threads_per_replica`, or the cores that this process may use over the most replicas, at least 1."""
        return self.threads_per_replica or max(1, cores() // self.most_replicas)

    @property
    def most_replicas(self) -> int:
        return max(self.replicas, self.max_replicas or 1)

    @property
    def repository(self) -> Path | str:
        """`models`, of a process that has some."""
        if self.models is None:
            raise SettingsError(_NO_MODELS)
        return self.models

    @property
    def poll_seconds(self) -> float | None:
        """Seconds between looks at the repository; None for no looks."""
        if self.models_poll_seconds is None:
            return STORE_S if isinstance(self.models, str) else None
        return self.models_poll_seconds or None

    def check_reachable(self) -> None:
        """Of what runs replicas: SettingsError where fronts on other machines could not reach them."""
        near = _near(self.inner_host) and (self.announce is None or _near(self.announce))
        if far := [each for each in self.directory if near and not _near(_host(each))]:
            raise SettingsError(
                "replica_host: expected an address that fronts elsewhere reach, such as 0.0.0.0, got "
                f"{self.inner_host} with the directory {far[0]}"
            )

    @property
    def inner_ports(self) -> tuple[int, int]:
        """Ports of the replicas' own servers, both ends included."""
        return self.replica_ports if self.replica_port is None else (self.replica_port, self.replica_port)

    @property
    def inner_host(self) -> str:
        """What replicas and Ray bind to."""
        return self.replica_host or ("::1" if ":" in self.host else "127.0.0.1")

    @property
    def far(self) -> bool:
        """Whether others than this machine reach the gRPC port."""
        return self.socket is None and not _near(self.host)

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        """What others than this machine reach is guarded, or `insecure` says that it need not be."""
        if (self.tls_cert is None) != (self.tls_key is None):
            given, lacking = ("tls_cert", "tls_key") if self.tls_key is None else ("tls_key", "tls_cert")
            raise ValueError(f"{given}: expected a certificate and its key, got no --{lacking.replace('_', '-')}")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca: expected --tls-cert and --tls-key with it, got none")
        if self.socket is not None and self.tls_client_ca is not None:
            raise ValueError("socket: expected no --tls-client-ca with it, a Unix socket has no TLS")
        if self.allow_shared_memory and self.far:  # nothing makes it safe, so --insecure does not either
            raise ValueError(
                f"allow_shared_memory: expected a loopback address or --socket with it, got {self.host}: who uses it "
                "is on this machine"
            )
        if self.insecure:
            return self
        metrics = self.metrics_host or self.host
        if self.far:
            if self.tls_cert is None:
                why = "tokens would be readable on the way" if self.tokens else "everybody could use and read it"
                raise ValueError(_open("host", self.host, "--tls-cert and --tls-key", f"without TLS {why}"))
            if self.tokens is None and self.tls_client_ca is None:
                why = "everybody who reaches it could use it"
                raise ValueError(_open("host", self.host, "--tokens or --tls-client-ca", why))
        if not _near(metrics) and (self.tls_cert is None or not (self.metrics_token_file or self.tls_client_ca)):
            key = "host" if self.metrics_host is None else "metrics_host"
            wanted = "--tls-cert with --metrics-token-file or --tls-client-ca, or --metrics-host 127.0.0.1"
            raise ValueError(_open(key, metrics, wanted, "everybody who reaches it could read the metrics page"))
        if not _near(self.inner_host) and self.internal_tls is None:
            why = "requests between front and replicas would be readable on the way"
            raise ValueError(_open("replica_host", self.inner_host, "--internal-tls", why))
        return self

    @model_validator(mode="after")
    def _http(self) -> Self:
        """The HTTP port gives nobody more than the gRPC port does."""
        for name in ("http_allow_origin", "http_allow_host"):
            if getattr(self, name) and self.http_port is None:
                raise ValueError(f"{name}: expected --http-port with it, got none")
        if self.http_port is not None and self.socket is not None:
            raise ValueError("http_port: expected no --socket with it, which is open to this user alone")
        if "*" in self.http_allow_origin and self.tokens is None:
            raise ValueError(
                "http_allow_origin: expected --tokens with *, or any page in a browser could use the server"
            )
        return self

    @model_validator(mode="after")
    def _many_hosts(self) -> Self:
        """Processes that find each other by a directory can reach each other, and know whom they talk to."""
        if self.directory and self.internal_token_file is None:
            raise ValueError(
                "directory: expected --internal-token-file with it, got none: fronts, directories and replicas know "
                "each other by what it holds"
            )
        if self.internal_tls is None and not self.insecure:
            if not _near(self.directory_host):
                why = "who is where would be readable on the way, and everybody could write it"
                raise ValueError(_open("directory_host", self.directory_host, "--internal-tls", why))
            for each in self.directory:
                if not _near(_host(each)):
                    raise ValueError(_open("directory", each, "--internal-tls", "others could read and change the way"))
        return self

    @model_validator(mode="after")
    def _trusted(self, info: ValidationInfo) -> Self:
        for name in self.trust if isinstance(self.models, Path) and not _elsewhere_checked(info) else ():
            assert isinstance(self.models, Path)
            if not name or "/" in name or not (self.models / name).is_dir():
                raise ValueError(f"trust: expected names of models in {self.models}, got {shorten(name)}")
        return self

    @model_validator(mode="after")
    def _distinct(self, info: ValidationInfo) -> Self:
        alone, most = self.address is None and not _elsewhere_checked(info), self.most_replicas
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas: expected at least {self.replicas}, as replicas says, got {self.max_replicas}"
            )
        if self.grpc_port == self.metrics_port != 0:
            raise ValueError(f"metrics_port: expected another port than grpc_port, got {self.metrics_port} for both")
        if self.http_port and self.http_port in (self.grpc_port, self.metrics_port):
            raise ValueError(f"http_port: expected another port than grpc_port and metrics_port, got {self.http_port}")
        low, high = self.replica_ports
        if self.replica_port is not None:
            if low:
                raise ValueError("replica_port: expected no --replica-ports with it, got both")
            if most > 1 and alone:
                raise ValueError(f"replica_port: expected one replica on one machine, got {most}")
        if low and high - low + 1 < most and alone:
            raise ValueError(f"replica_ports: expected at least {most} ports, one a replica, got {low}-{high}")
        low, high = self.replica_metrics_ports or (0, 0)
        if low and high - low + 1 < most and alone:
            expected = f"expected at least {most} ports, one a replica"
            raise ValueError(f"replica_metrics_ports: {expected}, got {low}-{high}")
        return self


def _open(key: str, host: str, wanted: str, why: str) -> str:
    return f"{key}: expected a loopback address, or {wanted}, or --insecure, got {host}: {why}"


_NO_MODELS = f"models: expected a folder (--models, {PREFIX}MODELS or the key models of a file), got none"


def load_settings(
    config: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    **flags: Any,
) -> Settings:
    """Settings from flags (None: not given), the environment (default `os.environ`), a YAML file and the defaults.

    `only` names those that this process needs; others may be there too, for processes that share them, and are not
    looked at. None: it needs all, and `models` among them.
    `config` names the file; without it `TILTSERVE_CONFIG` does; without that there is none.
    `SettingsError` says in one line which of them is wrong, and how.
    """
    environment = os.environ if environment is None else environment
    if config is None and environment.get(CONFIG):
        config = Path(environment[CONFIG])
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}  # key -> what to call it in a complaint

    for key, value in _from_file(config).items() if config else ():
        values[key], origins[key] = value, f"{config}: {key}"
    for variable, value in environment.items():
        if variable in (CONFIG, *OF_CLIENTS) or of_a_service(variable, value):
            continue
        if variable.startswith(PREFIX):
            key = variable.removeprefix(PREFIX).lower()
            if key not in Settings.model_fields:
                known = [PREFIX + name.upper() for name in Settings.model_fields] + [CONFIG]
                raise SettingsError(unknown("environment variable", variable, known))
            values[key], origins[key] = value, variable
    for key, value in flags.items():
        if value is not None:
            values[key], origins[key] = value, _FLAGS.get(key, "--" + key.replace("_", "-"))

    if only is not None:
        values = {key: value for key, value in values.items() if key in only}
    elif "models" not in values:
        raise SettingsError(_NO_MODELS)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        key, _, rest = complaint(error, Settings).partition(": ")
        name, dot, inner = key.partition(".")
        raise SettingsError(f"{origins.get(name, name)}{dot}{inner}: {rest}") from None


def settings_elsewhere(given: Mapping[str, Any]) -> Settings:
    """Settings of processes on other machines, with the keys of a settings file: files and folders are not looked for
    here. Raises SettingsError."""
    for key in given:
        if key not in Settings.model_fields:
            raise SettingsError("args: " + unknown("key", key, Settings.model_fields))
    try:
        return Settings.model_validate(dict(given), context={ELSEWHERE: True})
    except ValidationError as error:
        raise SettingsError(f"args: {complaint(error, Settings)}") from None


def of_a_service(variable: str, value: str) -> bool:
    """Whether an environment variable comes from Kubernetes or Docker, and not from somebody who sets the server up.

    A pod is told of each Service in its namespace by NAME_SERVICE_HOST, NAME_SERVICE_PORT, NAME_SERVICE_PORT_GRPC (a
    port's name), NAME_PORT=tcp://10.0.0.1:8001 and NAME_PORT_8001_TCP with _PROTO, _PORT and _ADDR. A Service called
    tiltserve gives them our prefix, and one called tiltserve-grpc even the name of a setting: its value tells them
    apart. Docker's links give the same, with NAME_NAME=/own/other and the other's variables as NAME_ENV_...
    """
    valued = any(name.fullmatch(variable) and form.fullmatch(value) for name, form in _OF_VALUE)
    return valued or _SERVICE.fullmatch(variable) is not None


def _from_file(config: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{config}: expected a readable settings file, got: {reason}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{config}: expected YAML, got: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{config}: expected keys and values, got {shorten(content)}")
    for key in content:
        if key not in Settings.model_fields:
            raise SettingsError(f"{config}: " + unknown("key", key, Settings.model_fields))
    return content
