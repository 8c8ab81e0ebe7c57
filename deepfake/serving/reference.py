"""The page that says what the service takes and answers, made from its OpenAPI description; loads nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_CURL = """curl -F file=@clip.mp4 http://127.0.0.1:8000/v2/predict
curl -F file=@clip.mp4 'http://127.0.0.1:8000/api/v1/predict?overlay=true'
curl -H 'Content-Type: application/json' -d '{"path": "clip.mp4"}' http://127.0.0.1:8000/v2/predict"""


def reference_page(openapi: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        openapi: As FastAPI makes it.
    """
    info = openapi["info"]
    body = "".join(_routes(openapi))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(info["title"])}</title><link rel="stylesheet" href="/page.css"></head><body><main>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info.get('summary', ''))}. "
        '<a href="/openapi.json">openapi.json</a> says the same to programs; <a href="/">the page</a> is for people.'
        "</p>"
        f"<pre>{escape(_CURL)}</pre>{body}<h2>Shapes</h2>{''.join(_schemas(openapi))}</main></body></html>"
    )


def _routes(openapi: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in openapi["paths"].items():
        for method, told in methods.items():
            yield f"<h2>{method.upper()} <code>{escape(path)}</code></h2><p>{escape(told.get('summary', ''))}.</p>"
            kinds = told.get("requestBody", {}).get("content", {})
            if kinds:
                yield "<p>takes</p>"
            for kind, content in kinds.items():
                shape = escape(json.dumps(content["schema"].get("properties", {}), indent=1))
                yield f"<details><summary>{escape(kind)}</summary><pre>{shape}</pre></details>"
            rows = "".join(
                f"<tr><td>{escape(str(status))}</td><td>{escape(answer.get('description', ''))}</td>"
                f"<td>{_link(answer)}</td></tr>"
                for status, answer in told["responses"].items()
                if not (status == "422" and "HTTPValidationError" in json.dumps(answer))
            )
            yield f"<table><thead><tr><th>status</th><th>when</th><th>shape</th></tr></thead>{rows}</table>"


def _link(answer: Mapping[str, Any]) -> str:
    reference = answer.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    name = escape(reference.rpartition("/")[2])
    return f'<a href="#{name}">{name}</a>' if name else ""


def _schemas(openapi: Mapping[str, Any]) -> Iterator[str]:
    for name, shape in openapi.get("components", {}).get("schemas", {}).items():
        if "ValidationError" in name:
            continue
        rows = "".join(
            f"<tr><td><code>{escape(field)}</code></td><td>{escape(_kind(one))}</td>"
            f"<td>{escape(one.get('description', ''))}</td></tr>"
            for field, one in shape.get("properties", {}).items()
        )
        about = escape(shape.get("description", "").splitlines()[0] if shape.get("description") else "")
        yield (
            f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{about}</p>'
            f"<table><thead><tr><th>field</th><th>type</th><th>is</th></tr></thead><tbody>{rows}</tbody></table>"
        )


def _kind(shape: Mapping[str, Any]) -> str:
    if "anyOf" in shape:
        return " or ".join(_kind(one) for one in shape["anyOf"])
    if "$ref" in shape:
        return str(shape["$ref"]).rpartition("/")[2]
    if shape.get("type") == "array":
        return f"list of {_kind(shape.get('items', {}))}"
    return str(shape.get("type", "anything"))
