"""Convert the description of the API from YAML to JSON at build time: the sidecar needs no YAML parser to serve it.

The rest of the build is in pyproject.toml. Run this in a checkout after editing the YAML:

    .venv-dev/bin/python setup.py build_openapi
"""

import json
from pathlib import Path
from typing import ClassVar

import yaml
from setuptools import Command, setup
from setuptools.command.build import build

SOURCE = Path("sidecar/web/openapi/openapi.yaml")


class BuildOpenAPI(Command):  # setuptools.command.build.SubCommand
    """Write openapi.json beside openapi.yaml, where build_py finds it as package data."""

    user_options: ClassVar[list[tuple[str, str | None, str]]] = []
    editable_mode = False

    def initialize_options(self) -> None:
        """No options."""

    def finalize_options(self) -> None:
        """No options."""

    def run(self) -> None:
        """Convert. Values that JSON can't hold, such as an unquoted date, fail the build."""
        document = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
        partial = SOURCE.with_suffix(".json.tmp")
        partial.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        partial.replace(SOURCE.with_suffix(".json"))

    def get_source_files(self) -> list[str]:
        """Return the files that an sdist needs."""
        return [str(SOURCE)]

    def get_outputs(self) -> list[str]:
        """Return nothing: build_py copies the JSON."""
        return []

    def get_output_mapping(self) -> dict[str, str]:
        """Return nothing: see `get_outputs`."""
        return {}


class Build(build):
    """The usual build, preceded by `build_openapi`."""

    sub_commands: ClassVar = [("build_openapi", None), *build.sub_commands]


setup(cmdclass={"build": Build, "build_openapi": BuildOpenAPI})
