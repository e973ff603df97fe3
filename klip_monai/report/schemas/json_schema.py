"""JSON Schema of what is told in frozen dataclasses, so that other programs can check and read it."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def json_schema(kind: type, *, identifier: str) -> dict[str, Any]:
    """The schema (draft 2020-12) of a dataclass whose fields are plain values, tuples, mappings and such dataclasses.

    Args:
        kind: the dataclass; the texts of its docstring's attributes become descriptions. What its `to_json` adds to its
            fields is in its `JSON_PROPERTIES`, types by name.
        identifier: `$id` of the schema.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": identifier, **_object(kind)}


def _object(kind: type) -> dict[str, Any]:
    hints, texts = get_type_hints(kind), _texts(kind)
    kinds = {field.name: hints[field.name] for field in fields(kind)} | getattr(kind, "JSON_PROPERTIES", {})
    properties = {
        name: _schema(hint) | ({"description": texts[name]} if name in texts else {}) for name, hint in kinds.items()
    }
    return {
        "type": "object",
        "title": kind.__name__,
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


def _schema(hint: Any) -> dict[str, Any]:
    """The schema of a type."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if hint is Any:
        return {}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(arg) for arg in args]}
    if origin is tuple and args[-1] is Ellipsis:
        return {"type": "array", "items": _schema(args[0])}
    if origin is tuple:
        return {"type": "array", "prefixItems": [_schema(arg) for arg in args], "items": False, "minItems": len(args)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema(args[1])}
    return _object(hint)


def _texts(kind: type) -> dict[str, str]:
    """What the docstring says of each attribute, without markup."""
    _, _, listed = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", listed, flags=re.MULTILINE)
    return {name: re.sub(r":\w+:`~?([^`]+)`|``?", r"\1", " ".join(text.split())) for name, text in found}
