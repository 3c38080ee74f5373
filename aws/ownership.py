"""What marks a resource as made by this project, and so as the project's to remove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PROJECT_TAG = ("project", "sparkify-data-lake")  # only what carries it is found, ended, removed
OWN_TAGS: Sequence[Any] = [{"Key": PROJECT_TAG[0], "Value": PROJECT_TAG[1]}]
OWN_PARAMETERS: Mapping[str, str] = dict([PROJECT_TAG])  # what the Glue Data Catalog has for tags


def has_own_tag(tags: Sequence[Any]) -> bool:
    """Whether the project's tag is among the tags of a resource."""
    return any((tag.get("Key"), tag.get("Value")) == PROJECT_TAG for tag in tags)


def has_own_parameter(described: Mapping[str, Any]) -> bool:
    """Whether a table or a database of the catalogue carries the project's parameter."""
    parameters: Mapping[str, str] = described.get("Parameters") or {}
    return OWN_PARAMETERS.items() <= parameters.items()
