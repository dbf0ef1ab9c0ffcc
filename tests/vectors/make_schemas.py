"""Writes schemas.json: the schemas of what deploy/ holds, from the wheels of kubernetes-validate and docker-compose.

    python -m tests.vectors.make_schemas kubernetes_validate-1.37.0-py3-none-any.whl docker_compose-1.29.2-py2.py3-none-any.whl

Both are Apache-2.0; installed whole the first has 17,000 files. Left out are descriptions and what no kind of ours refers to.
"""

import json
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

KUBERNETES = "kubernetes_validate/kubernetes-json-schema/v1.37.0-local-strict/_definitions.json"
COMPOSE = "compose/config/compose_spec.json"
KINDS = {
    "StatefulSet": "io.k8s.api.apps.v1.StatefulSet",
    "Service": "io.k8s.api.core.v1.Service",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
}


def bare(schema: Any) -> Any:
    """Without descriptions, and referring to definitions of the same document."""
    if isinstance(schema, list):
        return [bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: bare(value) for key, value in schema.items() if key != "description" or not isinstance(value, str)}
    if isinstance(kept.get("$ref"), str):
        kept["$ref"] = "#/$defs/" + kept["$ref"].rpartition("/")[2]
    return kept


def named(schema: Any) -> set[str]:
    """All definitions that it refers to itself."""
    if isinstance(schema, list):
        return set().union(*map(named, schema))
    if not isinstance(schema, dict):
        return set()
    own = {schema["$ref"].rpartition("/")[2]} if isinstance(schema.get("$ref"), str) else set()
    return own.union(*map(named, schema.values()))


def closure(definitions: dict[str, Any], roots: set[str]) -> dict[str, Any]:
    """The roots and all that they refer to, however deep."""
    found: set[str] = set()
    while todo := roots - found:
        found |= todo
        roots = roots.union(*(named(definitions[name]) for name in todo))
    return {name: bare(definitions[name]) for name in sorted(found)}


def main(kubernetes: str, compose: str) -> None:
    """Both wheels into one file."""
    definitions = json.loads(ZipFile(kubernetes).read(KUBERNETES))["$defs"]
    made = {
        "kubernetes": {"kinds": KINDS, "$defs": closure(definitions, set(KINDS.values()))},
        "compose": json.loads(ZipFile(compose).read(COMPOSE)),
    }
    (Path(__file__).parent / "schemas.json").write_text(json.dumps(made, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
