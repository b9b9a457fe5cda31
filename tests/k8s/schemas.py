"""Kubernetes' own schemas of its objects, of several versions; strict: a field that is none is a fault."""

import functools
import json
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.k8s.rendering import TOOLS

SCHEMAS = TOOLS / "python" / "kubernetes_validate" / "kubernetes-json-schema"


def faults(thing: dict[str, Any], version: str) -> list[str]:
    """What a version such as 1.30 would refuse of an object.

    Raises:
        FileNotFoundError: the version has no such kind.
    """
    group, _, number = thing["apiVersion"].rpartition("/")
    kind = "-".join(filter(None, (thing["kind"].lower(), group.partition(".")[0], number)))
    return [f"{error.json_path}: {error.message}" for error in _validator(kind, version).iter_errors(thing)]


@functools.cache
def _validator(kind: str, version: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"v{version}.0-local-strict" / f"{kind}.json").read_text())
    return Draft202012Validator(schema, registry=_definitions(version))


@functools.cache
def _definitions(version: str) -> "Registry[Any]":
    shared = json.loads((SCHEMAS / f"v{version}.0-local-strict" / "_definitions.json").read_text())
    return Registry().with_resource(shared["$id"], Resource.from_contents(shared)).crawl()
