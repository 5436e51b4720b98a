"""Structural OpenAPI v3 schemas of the custom resources, made from their types.

The API server takes a subset of what msgspec's JSON Schemas use: no references, no choices, no conditions on keys
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema).
Descriptions, which ``kubectl explain`` shows, are the docstrings of the classes and of their attributes.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from nodeobs.model import Document
from nodeobs.typed import decode

Schema = dict[str, Any]

_INT32 = 2**31 - 1
_ROOT_FIELDS: Final[Mapping[str, Schema]] = {
    "apiVersion": {"type": "string", "description": "Group and version of this object's shape."},
    "kind": {"type": "string", "description": "What this object is."},
    "metadata": {"type": "object"},
}


def structural_schema(kind: type[Document]) -> Schema:
    """Schema of a whole object. Absent fields get the model's defaults, so that what is stored is complete."""
    # By way of JSON, as defaults are the model's own tuples and enumerations.
    generated = decode(msgspec.json.encode(msgspec.json.schema(kind, ref_template="{name}")), dict[str, Any])
    documents = {document.__name__: document for document in _documents_in(kind)}
    schema = _Translation(generated["$defs"], documents).document(kind.__name__)
    schema["required"] = [name for name in schema["required"] if name != "metadata"]
    schema["properties"] |= _ROOT_FIELDS
    return schema


class _Translation:
    """Every schema that one object's refers to, put in the place of its reference."""

    def __init__(self, definitions: Mapping[str, Schema], documents: Mapping[str, type[msgspec.Struct]]) -> None:
        self._definitions = definitions
        self._documents = documents

    def document(self, name: str) -> Schema:
        """Schema of the document (or of the enumeration) of that name."""
        definition = self._definitions[name]
        if "properties" not in definition:
            return self._value(definition)
        kind = self._documents[name]
        texts = _attribute_docstrings(kind)
        properties = {}
        for field in msgspec.structs.fields(kind):
            schema = self._value(definition["properties"][field.encode_name])
            if field.name in texts:
                schema["description"] = texts[field.name]
            if field.default_factory is not msgspec.NODEFAULT:
                # Of an object, the API server fills in the defaults of what is within.
                schema["default"] = {} if "properties" in schema else msgspec.to_builtins(field.default_factory())
            properties[field.encode_name] = schema
        found: Schema = {"type": "object", "description": _plain(inspect.cleandoc(kind.__doc__ or ""))}
        if definition["required"]:
            found["required"] = definition["required"]
        return found | {"properties": properties}

    def _value(self, given: Schema) -> Schema:
        if "anyOf" in given:
            # A choice with null, which in Kubernetes is the absence of the field.
            (given,) = (option for option in given["anyOf"] if option.get("type") != "null")
        if "$ref" in given:
            inner = self.document(given["$ref"])
            return inner | ({"default": given["default"]} if "default" in given else {})
        schema = {key: value for key, value in given.items() if key not in ("title", "propertyNames")}
        if schema.get("default", "") is None:
            del schema["default"]
        if isinstance(schema.get("default"), list):
            # Of each item what is not empty: the API server fills in the rest.
            schema["default"] = [_not_empty(item) for item in schema["default"]]
        return schema | self._details(given)

    def _details(self, given: Schema) -> Schema:
        """What Kubernetes wants in other words, or in addition."""
        details: Schema = {}
        if "enum" in given:
            details["type"] = "string"
        if "pattern" in given:
            details["pattern"] = given["pattern"].replace(r"\A", "^").replace(r"\Z", "$")
        if "description" in given:
            details["description"] = _plain(inspect.cleandoc(given["description"]))
        if given.get("type") == "integer":
            details["format"] = "int32" if given.get("maximum", _INT32 + 1) <= _INT32 else "int64"
        if given.get("type") == "number":
            details["format"] = "double"
        if "items" in given:
            details |= {"items": self._value(given["items"]), "x-kubernetes-list-type": "atomic"}
        if isinstance(given.get("additionalProperties"), dict):
            details |= {"additionalProperties": self._value(given["additionalProperties"])}
            details |= {"x-kubernetes-map-type": "atomic", **_key_rule(given.get("propertyNames", {}))}
        return details


def _not_empty(item: Any) -> Any:
    return {key: value for key, value in item.items() if value not in ("", None)} if isinstance(item, dict) else item


def _key_rule(names: Schema) -> Schema:
    """Structural schemas say nothing of a map's keys, rules may."""
    low, high = names.get("minLength", 0), names.get("maxLength")
    if high is None:
        return {}
    rule = f"self.all(key, size(key) >= {low} && size(key) <= {high})"
    return {"x-kubernetes-validations": [{"rule": rule, "message": f"keys must have {low} to {high} characters"}]}


def _documents_in(kind: type[Document]) -> Iterator[type[msgspec.Struct]]:
    """The document, and all that it holds at any depth."""
    seen: set[type[msgspec.Struct]] = set()
    waiting: list[msgspec.inspect.Type] = [msgspec.inspect.type_info(kind)]
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in seen:
                continue
            seen.add(info.cls)
            yield info.cls
            waiting += [field.type for field in info.fields]
        else:
            waiting += _parts(info)


def _parts(info: msgspec.inspect.Type) -> tuple[msgspec.inspect.Type, ...]:
    match info:
        case msgspec.inspect.Metadata(type=inner):
            return (inner,)
        case msgspec.inspect.UnionType(types=options):
            return options
        case msgspec.inspect.VarTupleType(item_type=item):
            return (item,)
        case _:
            return ()


def _attribute_docstrings(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Texts below the attributes, by name; those of the bases included."""
    texts: dict[str, str] = {}
    for part in reversed([base for base in kind.__mro__ if issubclass(base, Document)]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        assert isinstance(definition, ast.ClassDef)
        for attribute, below in zip(definition.body, definition.body[1:], strict=False):
            match attribute, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = _plain(inspect.cleandoc(text))
    return texts


def _plain(text: str) -> str:
    """Docstring's markup as Kubernetes writes its own."""
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split()))
