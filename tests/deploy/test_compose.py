"""The compose file follows its schema, and the files that it names exist."""

import re
import subprocess
import sys

import pytest
import yaml

from tests.support.server import ROOT

COMPOSE = ROOT / "deploy" / "compose.yaml"


@pytest.fixture
def services():
    return yaml.safe_load(COMPOSE.read_text())["services"]


def test_it_follows_the_schema():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_all_mounted_files_exist(services):
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]
    files = [COMPOSE.parent / name for name in mounted if name.startswith("./")]
    assert len(files) == 4
    assert all(file.is_file() for file in files)
    assert (COMPOSE.parent / services["embedding"]["build"] / "Dockerfile").is_file()


@pytest.mark.parametrize("name", ["embedding", "nginx"])
def test_a_stop_waits_for_accepted_requests(services, name):
    graceful = int(re.search(r"^graceful_timeout = (\d+)", (ROOT / "gunicorn.conf.py").read_text(), re.MULTILINE)[1])
    assert int(services[name]["stop_grace_period"].removesuffix("s")) > graceful


def test_nginx_and_prometheus_find_the_replicas(services):
    replicas = (COMPOSE.parent / "nginx" / "embedding-replicas.conf").read_text()
    assert "server embedding:7860 resolve" in replicas
    prometheus = yaml.safe_load((COMPOSE.parent / "prometheus.yml").read_text())
    (job,) = prometheus["scrape_configs"]
    assert job["dns_sd_configs"][0]["names"] == ["embedding"]
    assert job["dns_sd_configs"][0]["port"] == 7860
    assert set(services) == {"embedding", "nginx", "prometheus"}
    for file in prometheus["rule_files"]:
        assert f"./{file}:/etc/prometheus/{file}:ro" in services["prometheus"]["volumes"]
        (group,) = yaml.safe_load((COMPOSE.parent / file).read_text())["groups"]
        assert all(f'job="{job["job_name"]}"' in rule["expr"] for rule in group["rules"] if "up{" in rule["expr"])
