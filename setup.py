"""What pyproject.toml cannot express: the build compiles the kernel, and so a wheel is for one kind of machine."""

import runpy
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

KERNEL = "embedding_api/encoder/kernel"


class BuildPy(build_py):
    def run(self):
        super().run()
        # Run by its path: what the package imports is not installed here.
        build = runpy.run_path(f"{KERNEL}/build.py")["build"]
        build(Path("" if self.editable_mode else self.build_lib, KERNEL))


class BdistWheel(bdist_wheel):
    def get_tag(self):
        # The shared objects are for any Python: ctypes loads them.
        return "py3", "none", super().get_tag()[2]


class BinaryDistribution(Distribution):
    def has_ext_modules(self):
        return True


setup(distclass=BinaryDistribution, cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel})
