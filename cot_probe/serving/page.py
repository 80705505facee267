"""The live page and the page of the interface: sent with a strict policy, in need of nothing from elsewhere.

What they show of transcripts reaches the page as text nodes only. The policy (CSP) admits each
page's own script and style, by hash, and requests to this service.
"""

import base64
import hashlib
import html
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any, Final

from starlette.responses import HTMLResponse

_SCRIPTS: Final = ("live_streams.js", "live_views.js", "live_service.js")
"""Parts of the live page's one script, in their order."""
_SECURITY: Final = {
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def live_page() -> HTMLResponse:
    """The page at ``/``: streams, alerts and evidence as they come."""
    style = _shared("page.css") + _asset("live.css")
    script = "\n".join((_shared("elements.js"), *map(_asset, _SCRIPTS)))
    return _page(Template(_asset("live.html")).substitute(style=style, script=script), style=style, script=script)


def interface_page(document: Mapping[str, Any]) -> HTMLResponse:
    """The OpenAPI document for people, without a script."""
    style = _shared("page.css") + _asset("interface.css")
    content = Template(_asset("interface.html")).substitute(
        style=style,
        title=html.escape(document["info"]["title"]),
        version=html.escape(document["info"]["version"]),
        about=_prose(document["info"].get("description", "")),
        operations="".join(
            _operation(method, path, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        ),
        schemas="".join(_schema(name, schema) for name, schema in document["components"]["schemas"].items()),
    )
    return _page(content, style=style)


def _page(content: str, *, style: str, script: str = "") -> HTMLResponse:
    policy = (
        f"default-src 'none'; script-src {_source(script) if script else _NONE}; style-src {_source(style)}; "
        f"connect-src {_SELF if script else _NONE}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return HTMLResponse(content, headers={**_SECURITY, "Content-Security-Policy": policy})


_NONE: Final = "'none'"
_SELF: Final = "'self'"


def _source(text: str) -> str:
    """A source expression of the Content Security Policy (level 3, W3C): the hash of an inline element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (resources.files("cot_probe.serving") / name).read_text("utf-8")


def _shared(name: str) -> str:
    """What is one and the same for the report and these pages: the look, and how text becomes text nodes."""
    return (resources.files("cot_probe.report") / name).read_text("utf-8")


def _prose(text: str) -> str:
    """Markdown as far as it is used here: paragraphs, bold, emphasis, code."""
    return "".join(f"<p>{_line(paragraph)}</p>" for paragraph in text.split("\n\n") if paragraph.strip())


def _line(text: str) -> str:
    line = html.escape(text, quote=False)
    for mark, element in (("**", "strong"), ("*", "em"), ("`", "code")):
        parts = line.split(mark)
        line = "".join(part if at % 2 == 0 else f"<{element}>{part}</{element}>" for at, part in enumerate(parts))
    return line


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    rows = [
        (f"<code>{html.escape(one['name'])}</code> <span class=muted>{one['in']}</span>", _described(one))
        for one in operation.get("parameters", ())
    ]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        rows.append((f"body <code>{html.escape(kind)}</code>", _described(content)))
    refusals = {status: answer for status, answer in operation["responses"].items() if status >= "4"}
    for status, answer in operation["responses"].items():
        if status in refusals:
            continue
        kinds = [_type(content.get("schema", {})) for content in answer.get("content", {}).values()]
        rows.append((html.escape(status), f"{_prose(answer.get('description', ''))} {' '.join(filter(None, kinds))}"))
    told = (f"<li><code>{status}</code> {_line(answer['description'])}</li>" for status, answer in refusals.items())
    rows.append(("refused", f'<ul class="refusals">{"".join(told)}</ul>'))
    name = html.escape(operation["operationId"])
    return (
        f'<section class="operation" id="{name}"><h3><span class="method">{html.escape(method.upper())}</span> '
        f"<code>{html.escape(path)}</code></h3><p class=lead>{html.escape(operation.get('summary', ''))}</p>"
        f"{_prose(operation.get('description', ''))}{_table(rows)}</section>"
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    needed = schema.get("required", ())
    rows = [
        (
            f"<code>{html.escape(field)}</code>{'' if field in needed else ' <span class=muted>may be left out</span>'}",
            _described({"schema": one}),
        )
        for field, one in schema.get("properties", {}).items()
    ]
    return (
        f'<section class="operation" id="schema-{html.escape(name)}"><h3>{html.escape(name)}</h3>'
        f"{_prose(schema.get('description', ''))}{_table(rows)}</section>"
    )


def _described(parameter: Mapping[str, Any]) -> str:
    schema = parameter.get("schema", {})
    told = parameter.get("description", schema.get("description", ""))
    return f'<span class="muted">{_type(schema)}</span> {_prose(told)}'


def _table(rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th scope=row>{name}</th><td>{what}</td></tr>" for name, what in rows)
    return f'<div class="scroll"><table class="figures"><tbody>{cells}</tbody></table></div>' if rows else ""


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in one line; a named one as a link to it."""
    if "$ref" in schema:
        name = html.escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(_type(one) for one in schema[key])
    if "enum" in schema:
        return " | ".join(f"<code>{html.escape(str(one))}</code>" for one in schema["enum"])
    if "const" in schema:
        return f"<code>{html.escape(str(schema['const']))}</code>"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {})) or 'anything'}"
    return html.escape(str(schema.get("type", "anything")))
