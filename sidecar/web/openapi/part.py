"""What a feature adds to the description of the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.core.feature import Json

Operation = dict[str, object]
"""What is said of a path and a method."""


@dataclass(frozen=True)
class Part:
    """Of one feature; a module for each, listed in `document.PARTS`."""

    status: Mapping[str, Json] = field(default_factory=dict)
    """Field of `/status` → its schema."""
    schemas: Mapping[str, Json] = field(default_factory=dict)
    """By name, for `json_schema.ref`."""
    paths: Mapping[str, Mapping[str, Operation]] = field(default_factory=dict)
    """Path → method in lower case → what it does."""
