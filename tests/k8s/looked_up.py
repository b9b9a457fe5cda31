"""As much of Kubernetes' API as Helm's `lookup` asks for: what a release installed before, to render its upgrade."""

import base64
import http.server
import json
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Object = Mapping[str, Any]


@contextmanager
def cluster(objects: Collection[Object], release: str, namespace: str) -> Iterator[str]:
    """The address of an API server that knows the kinds of these objects, and has the Secrets among them."""
    secrets = {
        each["metadata"]["name"]: _owned(each, release, namespace) for each in objects if each["kind"] == "Secret"
    }
    answers: dict[str, Any] = {"/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}}
    kinds: dict[str, set[str]] = {}
    for each in objects:
        kinds.setdefault(each["apiVersion"], set()).add(each["kind"])
    groups = []
    for version, names in kinds.items():
        group, _, own = version.rpartition("/")
        resources = [{"name": plural(name), "namespaced": True, "kind": name, "verbs": ["get"]} for name in names]
        listed = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        answers[f"/apis/{version}" if group else f"/api/{version}"] = listed
        if group:
            told = {"groupVersion": version, "version": own}
            groups.append({"name": group, "versions": [told], "preferredVersion": told})
    answers["/api"] = {"kind": "APIVersions", "versions": ["v1"]}
    answers["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            *_, kind, name = path.rsplit("/", 2)
            found = secrets.get(name) if kind == "secrets" else answers.get(path)
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(missing if found is None else found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _owned(found: Object, release: str, namespace: str) -> Object:
    """A Secret as Helm installed it, and as the API server keeps it."""
    written = {key: base64.b64encode(each.encode()).decode() for key, each in found.get("stringData", {}).items()}
    mine = {"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": namespace}
    about = found["metadata"]
    data = {**found.get("data", {}), **written}
    return {**found, "data": data, "metadata": {**about, "annotations": {**about.get("annotations", {}), **mine}}}


def plural(kind: str) -> str:
    """A kind as paths have it."""
    return f"{kind[:-1].lower()}ies" if kind.endswith("y") else f"{kind.lower()}s"
