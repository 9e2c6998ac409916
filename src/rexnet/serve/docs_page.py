"""The OpenAPI document as a page without scripts and without anything from elsewhere."""

import json
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from rexnet.serve.markup import Markup, join, tag

router = APIRouter(include_in_schema=False)

_SCALE = tag("meta", name="viewport", content="width=device-width, initial-scale=1")


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The routes, for people."""
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'self'"}
    return HTMLResponse(_page(request.app.openapi()), headers=policy)


def _page(document: dict[str, Any]) -> str:
    routes = [
        _route(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    intro = tag("p", "For programs: ", tag("a", "openapi.json", href="openapi.json"))
    style = tag("link", rel="stylesheet", href="page/page.css")
    head = tag("head", tag("meta", charset="utf-8"), _SCALE, tag("title", "rexnet: routes"), style)
    body = tag("body", tag("header", tag("h1", "Routes of this server"), intro), tag("main", *routes))
    return "<!doctype html>" + tag("html", head, body, lang="en")


def _route(method: str, path: str, operation: dict[str, Any]) -> Markup:
    parameters = [
        tag("li", tag("code", one["name"]), f" ({one['in']}) ", one.get("description"), _schema(one["schema"]))
        for one in operation.get("parameters", [])
    ]
    bodies = [
        tag("li", tag("code", kind), _schema(content["schema"]))
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    ]
    statuses = [
        tag("li", tag("code", status), " ", one["description"]) for status, one in operation["responses"].items()
    ]
    lists = (("Parameters", parameters), ("Request", bodies), ("Answers", statuses))
    shown = [join(tag("h3", title), tag("ul", *items)) for title, items in lists if items]
    return tag("section", tag("h2", f"{method.upper()} {path}"), tag("p", operation.get("description")), *shown)


def _schema(schema: dict[str, Any]) -> Markup:
    return tag("details", tag("summary", "schema"), tag("pre", json.dumps(schema, indent=1)))
