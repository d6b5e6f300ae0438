"""The files of the image exist, and all of its packages are pinned."""

import importlib.metadata
import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.server import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
PINS = {
    canonicalize_name(name): version
    for file in ("requirements.txt", "constraints.txt")
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / file).read_text(), re.MULTILINE)
}


def test_all_copied_files_exist_and_are_not_ignored():
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = [
        name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    ]
    assert {name.split("/")[0] for name in copied} == set(allowed)
    assert all((ROOT / name).exists() for name in copied)


def test_every_package_that_the_requirements_need_is_pinned():
    todo, seen = set(PINS), {}
    while todo:
        name = todo.pop()
        seen[name] = importlib.metadata.version(name).partition("+")[0]
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            needed = canonicalize_name(requirement.name)
            if needed not in seen and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
                todo.add(needed)
    assert seen == PINS
