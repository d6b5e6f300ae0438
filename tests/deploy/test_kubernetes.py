"""The manifests, as kustomize puts them together, are valid, and fit the image and the service."""

import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.support.server import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LABELS = {"app.kubernetes.io/name": "embedding-api"}


@pytest.fixture(scope="module", params=["base", "keys-and-model"])
def manifests(request):
    """All objects of an overlay, by kind."""
    command = [Path(sys.executable).with_name("kubectl"), "kustomize", KUBERNETES / request.param]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    manifests = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(output)}
    assert len(manifests) == output.count("\nkind:") + output.startswith("kind:")
    return manifests


@pytest.fixture
def pod(manifests):
    return manifests["Deployment"]["spec"]["template"]


@pytest.fixture
def container(pod):
    (container,) = pod["spec"]["containers"]
    return container


def test_every_object_is_valid(manifests):
    known = {kind: manifest for kind, manifest in manifests.items() if kind != "ServiceMonitor"}
    assert set(known) == {
        "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy",
    }  # fmt: skip
    for manifest in known.values():
        for version in ("1.30", "1.37"):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_each_selects_the_pods_of_this_service_and_no_others(manifests, pod):
    assert pod["metadata"]["labels"] == LABELS
    assert manifests["Deployment"]["spec"]["selector"] == {"matchLabels": LABELS}
    assert manifests["Service"]["spec"]["selector"] == LABELS
    assert manifests["PodDisruptionBudget"]["spec"]["selector"] == {"matchLabels": LABELS}
    assert manifests["NetworkPolicy"]["spec"]["podSelector"] == {"matchLabels": LABELS}
    assert manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "embedding-api"
    for constraint in pod["spec"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"] == {"matchLabels": LABELS}


def test_the_monitor_finds_the_service_and_its_port(manifests):
    if "ServiceMonitor" in manifests:
        monitor, service = manifests["ServiceMonitor"]["spec"], manifests["Service"]
        assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


def test_it_fits_the_image(pod, container):
    assert [port["containerPort"] for port in container["ports"]] == [int(re.search(r"EXPOSE (\d+)", DOCKERFILE)[1])]
    assert pod["spec"]["securityContext"]["runAsUser"] == int(re.search(r"USER (\d+)", DOCKERFILE)[1])
    model = [variable["value"] for variable in container["env"] if variable["name"] == "EMBEDDING_MODEL"]
    assert set(model) <= {re.search(r"EMBEDDING_MODEL=(\S+)", DOCKERFILE)[1]}


def test_a_stop_waits_for_accepted_requests(pod, container):
    service = int(re.search(r"^graceful_timeout = (\d+)", (ROOT / "gunicorn.conf.py").read_text(), re.MULTILINE)[1])
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > before + service


def test_every_mount_has_a_volume(pod, container):
    mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
    assert mounts == {volume["name"] for volume in pod["spec"].get("volumes", [])}
