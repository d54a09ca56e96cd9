"""Validates documents against schemas/ with the jsonschema package, for the tests beside it.

Reads one JSON object a line and answers each with one line:

    {"schema": "report", "closed": false, "document": …}   {"valid": true, "why": ""}
    {"yaml": "openapi.yaml"}                                {"document": …}

`closed` also refuses every field that the schema does not name.
"""
import functools
import json
import pathlib
import sys

import yaml
from jsonschema import Draft202012Validator

SCHEMAS = pathlib.Path(__file__).resolve().parents[2] / "schemas"


def whole(value, closed):
    """The schema with the files that it refers to put in their place."""
    if isinstance(value, list):
        return [whole(item, closed) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return load(value["$ref"], closed)
    value = {key: whole(item, closed) for key, item in value.items() if key not in ("$id", "$schema")}
    if closed and "properties" in value and "type" in value:
        value.setdefault("additionalProperties", False)
    return value


def load(file, closed):
    return whole(json.loads((SCHEMAS / file).read_text(encoding="utf-8")), closed)


@functools.cache
def validator(name, closed):
    schema = load(f"{name}.json", closed)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


for line in sys.stdin:
    asked = json.loads(line)
    if "yaml" in asked:
        answer = {"document": yaml.safe_load((SCHEMAS / asked["yaml"]).read_text(encoding="utf-8"))}
    else:
        error = next(validator(asked["schema"], asked["closed"]).iter_errors(asked["document"]), None)
        answer = {"valid": error is None, "why": "" if error is None else f"{error.json_path}: {error.message}"}
    print(json.dumps(answer), flush=True)
