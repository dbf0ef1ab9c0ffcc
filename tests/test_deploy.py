"""What stands in deploy/ starts roles with options that they have, as nobody in particular, on a root that nobody writes to."""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

import primum
from primum.cli import _group

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
IMAGE = f"primum:{primum.__version__}"


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.name}: {document['kind']}", document


def services() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(DEPLOY.glob("compose-*.yaml")):
        for name, service in yaml.safe_load(path.read_text())["services"].items():
            yield f"{path.name}: {name}", service


def sets() -> list[Any]:
    return [pytest.param(one, id=name) for name, one in manifests() if one["kind"] == "StatefulSet"]


SCHEMAS = json.loads((ROOT / "tests" / "vectors" / "schemas.json").read_text())


def errors(schema: dict[str, Any], document: Any) -> list[str]:
    found = jsonschema.Draft7Validator(schema).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in found]


def kubernetes(document: dict[str, Any]) -> list[str]:
    schema = SCHEMAS["kubernetes"]
    return errors({"$ref": f"#/$defs/{schema['kinds'][document['kind']]}", "$defs": schema["$defs"]}, document)


@pytest.mark.parametrize("manifest", [pytest.param(one, id=name) for name, one in manifests()])
def test_a_manifest_has_the_schema_of_its_kind(manifest: dict[str, Any]) -> None:
    assert kubernetes(manifest) == []
    assert kubernetes({**manifest, "replica": 1}), "unknown keys are found"
    assert kubernetes({**manifest, "spec": {**manifest["spec"], "selector": "primum"}})


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("compose-*.yaml")), ids=lambda path: path.stem)
def test_a_compose_file_has_its_schema(path: Path) -> None:
    composed = yaml.safe_load(path.read_text())
    assert errors(SCHEMAS["compose"], composed) == []
    [first, *_] = composed["services"].values()
    first["readonly"] = True
    assert errors(SCHEMAS["compose"], composed), "unknown keys are found"


def takes(arguments: list[str]) -> None:
    """Fails unless `primum` has this verb, the verb below it and these options; nothing is started."""
    rest = [re.sub(r"\$\{[^}]*\}", "coordinator.example.org", argument) for argument in arguments]
    command: click.Command = _group
    context = click.Context(command)
    while isinstance(command, click.Group) and rest:
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, found.make_context(name, rest, parent=context)
        rest = [*getattr(context, "_protected_args", []), *context.args]


PAGES = [ROOT / "docs" / "how-to" / f"{name}.md" for name in ("run-for-months", "rotate-keys", "back-up", "containers")]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_commands_of_the_pages_have_the_options_that_they_name(page: Path) -> None:
    found = re.findall(r"^ {4}primum (.+)$", page.read_text(), re.MULTILINE)
    assert found or page.stem == "containers"
    for line in found:
        takes(shlex.split(line))


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_links_and_files_of_the_pages_are_there(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (page.parent / target).is_file(), target
    for file in re.findall(r"deploy/[\w./-]+\w", text):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize("statefulset", sets())
def test_a_pod_is_restricted_watched_and_alone(statefulset: dict[str, Any]) -> None:
    """Kubernetes' own standard, profile `restricted`, and what a state folder needs."""
    spec = statefulset["spec"]
    pod = spec["template"]["spec"]
    assert spec["replicas"] == 1
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    volumes = {volume["name"] for volume in pod["volumes"]} | {
        c["metadata"]["name"] for c in spec["volumeClaimTemplates"]
    }
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["image"] == IMAGE
        assert {"requests", "limits"} == set(container["resources"])
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert not any("hostPath" in volume for volume in pod["volumes"])
    [container] = pod["containers"]
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] == "/healthz" and container[probe]["httpGet"]["port"] in ports
    assert "--metrics=0.0.0.0:9464" in container["args"]
    takes(container["args"])


def test_services_and_rules_find_their_pods_and_no_service_shows_the_metrics() -> None:
    pods = [one["spec"]["template"] for name, one in manifests() if one["kind"] == "StatefulSet"]
    for name, one in manifests():
        selector = {"Service": lambda s: s["selector"], "NetworkPolicy": lambda s: s["podSelector"]["matchLabels"]}
        labels = selector.get(one["kind"], lambda s: s["selector"]["matchLabels"])(one["spec"])
        found = [pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items()]
        assert len(found) == 1, name
        if one["kind"] == "Service":
            ports = {port["name"] for port in found[0]["spec"]["containers"][0]["ports"]}
            shown = {port["targetPort"] for port in one["spec"]["ports"]}
            assert shown <= ports - {"metrics"}, name


@pytest.mark.parametrize("service", [pytest.param(one, id=name) for name, one in services()])
def test_a_composed_service_is_read_only_and_without_privileges(service: dict[str, Any]) -> None:
    assert service["image"] == IMAGE
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"] and "/tmp" in service["tmpfs"]
    assert "privileged" not in service and "environment" not in service
    assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert "--metrics=127.0.0.1:9464" in service["command"]
    listens = {argument.rpartition(":")[2] for argument in service["command"] if argument.startswith("--listen")}
    assert {port.partition(":")[2] for port in service["ports"]} == listens
    takes(service["command"])


def keys_of(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith(("#", ";")):
            found.setdefault(line.partition("=")[0], []).append(line.partition("=")[2])
    return found


@pytest.mark.parametrize("unit", UNITS, ids=[unit.stem for unit in UNITS])
def test_a_unit_gives_away_what_its_role_does_not_need(unit: Path) -> None:
    keys = keys_of(unit)
    expected = {"User": "primum", "ProtectSystem": "strict", "NoNewPrivileges": "yes", "UMask": "0077"}
    expected |= {"CapabilityBoundingSet": "", "StateDirectoryMode": "0700", "RestrictNamespaces": "yes"}
    for key, value in expected.items():
        assert keys.get(key) == [value], key
    if unit.stem != "primum-backup":
        assert keys["Restart"] == ["on-failure"] and keys["RestartPreventExitStatus"] == ["2 4"]
        program, *arguments = shlex.split(keys["ExecStart"][0])
        assert program.endswith("/primum")
        takes(arguments)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_reads_the_units_and_finds_them_confined(tmp_path: Path) -> None:
    for path in (DEPLOY / "systemd").glob("primum-*"):
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/primum/.venv/bin/primum", "/bin/true"))
    files = sorted(tmp_path.iterdir())
    done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    for path in tmp_path.glob("*.service"):
        command = ["systemd-analyze", "security", "--offline=yes", "--threshold=30", path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout[-300:]


def test_the_image_is_built_of_what_the_package_needs_and_of_pinned_parts() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    assert re.search(r"^ARG PYTHON=\S+:\d+\.\d+\.\d+-\S+$", text, re.MULTILINE), "pinned by tag"
    torch = re.search(r"torch==[\d.]+", (ROOT / "scripts" / "torch").read_text())
    assert torch is not None and torch.group() in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    copied = " ".join(re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)).split()
    needed = {"pyproject.toml", "src", project["readme"], *project["license-files"]}
    assert set(copied) == needed and all((ROOT / name).exists() for name in needed)
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*" and {f"!{name}" for name in needed} <= set(ignored)
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE) and "VOLUME /state" in text
    assert not re.search(r"(?i)password|secret|token|ADD http", text)
