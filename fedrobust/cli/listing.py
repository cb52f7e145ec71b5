"""`fedrobust list`: print the entries of the registries."""

from __future__ import annotations

import argparse
import ast
import inspect
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.table import Table

from fedrobust.cli.console import new_console
from fedrobust.config import DEFAULTS
from fedrobust.config.flat import walk
from fedrobust.config.registry import REGISTRIES, registry
from fedrobust.presets import load_preset, preset_names
from fedrobust.studies import load_study, study_names

KINDS = ("presets", "studies", "settings", *REGISTRIES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fedrobust list`."""
    parser.add_argument("kind", nargs="?", choices=KINDS, help="only this kind [all except settings]")


def main(arguments: argparse.Namespace) -> int:
    """Print one table per kind."""
    console = new_console(soft_wrap=False)
    for kind in [arguments.kind] if arguments.kind else [kind for kind in KINDS if kind != "settings"]:
        table = Table(kind, "", title_justify="left", show_edge=False)
        for name, text in entries(kind).items():
            table.add_row(name, text)
        console.print(table)
        console.print()
    return 0


def entries(kind: str) -> dict[str, str]:
    """Return name → one line of text, for a kind."""
    if kind == "presets":
        return {name: load_preset(name).description for name in preset_names()}
    if kind == "studies":
        return {name: load_study(name).description for name in study_names()}
    if kind == "settings":
        return {
            key: f"{field.description} [{'unset' if value == '' else value}]" for key, field, value in walk(DEFAULTS)
        }
    return described(REGISTRIES[kind]) or {name: description_of(entry) for name, entry in registry(kind).items()}


def description_of(entry: Any) -> str:
    """Return an entry's own text: its description, or the first paragraph of its docstring."""
    if isinstance(entry, str):
        return entry
    if description := getattr(entry, "description", ""):
        return description
    return _first_paragraph(inspect.getdoc(entry))


def described(path: str) -> dict[str, str]:
    """Return name → description of the registry "package.module:NAME", read from the source without importing it.

    Most registries list functions whose modules import PyTorch, which takes ten times as long as to read them. It reads
    what those registries are made of: dicts of texts, of functions and classes, and of calls with a description.

    Returns:
        {} if an entry is anything else: then the registry itself has to be imported.
    """
    module, name = path.split(":")
    table = _assigned(module, name)
    if not isinstance(table, ast.Dict):
        return {}
    found = {}
    for key, value in zip(table.keys, table.values, strict=True):
        label, text = _text(module, key), _description(module, value)
        if label is None or text is None:
            return {}
        found[label] = text
    return found


@cache
def _source(module: str) -> ast.Module:
    """Return the syntax tree of a module, found below its top-level package, which alone may be imported for it."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0], *rest)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _assigned(module: str, name: str) -> ast.AST | None:
    """Return what a top-level name of a module stands for: a definition, or the value it is given, through imports."""
    for node in _source(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            return node.value
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            return node.value
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _assigned(node.module, alias.name)
    return None


def _text(module: str, node: ast.AST | None) -> str | None:
    """Return the text that an expression is, or that a name stands for."""
    if isinstance(node, ast.Name):
        node = _assigned(module, node.id)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _description(module: str, node: ast.AST | None) -> str | None:
    """Return the description of an entry; None if it is nothing that `described` knows."""
    if isinstance(node, ast.Name):
        node = _assigned(module, node.id)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return _first_paragraph(ast.get_docstring(node))
    if isinstance(node, ast.Call):
        texts = [text for argument in node.args if (text := _text(module, argument)) and " " in text]
        return texts[0] if texts else None
    return _text(module, node)


def _first_paragraph(docstring: str | None) -> str:
    return (docstring or "").split("\n\n")[0].replace("\n", " ")
