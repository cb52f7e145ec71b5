"""Docstrings follow the rule for words, and the words that the project avoids stay out of code, docs and messages."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted(
    path for name in ("fedrobust", "clients", "strategies", "partitions") for path in (ROOT / name).rglob("*.py")
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
VERBS = set(
    re.findall(
        r"\S+",
        """
        Add Append Ask Attack Build Carry Check Close Compute Constrain Convert Copy Count Cut Decode
        Delete Demand Do Draw Empty End Evaluate Explain Fetch Find Fine-tune Finish Flush Give Ignore
        Join Kill Leave Let Limit Load Lock Log Make Maximise Minimise Move Name Open Pack Parse Pass Plant
        Prepare Print Probe Project Put Raise Read Receive Record Register Release Remove Replace
        Reserve Reshape Restore Resume Return Run Say Scale Score Search Send Set Shift Show
        Shuffle Silence Solve Split Spread Start Step Stop Store Submit Summarise Take Train Turn Use
        Wait Write Yield
        """,
    )
)
OPENINGS = re.compile(r"(?:^|[.!?]\s+|\n\s*\n\s*)(Of|What|Whether|Those|The same)\b")
BANNED = re.compile(
    r"\b(campaigns?|journals?|ledgers?|carriers?|workbench|go on with|goes on|subjects?)\b", re.IGNORECASE
)
# x509 names the owner of a certificate so, and records of evaluations have had the key from the beginning
ALLOWED = re.compile(r"x509|\.subject\b|_builder\(subject|subject_name\(subject\)|subject: x509|[\"']subject[\"']")


def docstrings(path: Path) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield node, text


def is_attribute(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(each) in ("property", "cached_property") for each in node.decorator_list)


def broken_rules(path: Path) -> list[str]:
    found = []
    for node, text in docstrings(path):
        line = f"{path}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}"
        first = text.split()[0].rstrip(",")
        if isinstance(node, ast.FunctionDef) and not is_attribute(node) and first not in VERBS:
            found.append(f"{line}: begins with no verb of VERBS")
        if opening := OPENINGS.search(text):
            found.append(f"{line}: a sentence begins with {opening[1]}")
    return found


def banned_words(path: Path) -> list[str]:
    lines = enumerate(path.read_text().splitlines(), 1)
    return [f"{path}:{n}: {line.strip()}" for n, line in lines if BANNED.search(line) and not ALLOWED.search(line)]


def test_a_docstring_begins_with_a_verb_or_a_noun_phrase():
    assert [line for path in CODE for line in broken_rules(path)] == []


def test_avoided_words_stay_out_of_code_docs_and_messages():
    assert [line for path in [*CODE, *PAGES] for line in banned_words(path)] == []


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ('def f():\n    """A mean."""', "begins with no verb"),
        ('def f():\n    """Mean of x."""', "begins with no verb"),
        ('class C:\n    """What it is."""', "begins with What"),
        ('def f():\n    """Return x. Those are few."""', "begins with Those"),
        ('"""A page.\n\nOf two kinds."""', "begins with Of"),
    ],
)
def test_the_rule_finds(source, rule, tmp_path):
    (tmp_path / "a.py").write_text(source)
    assert [rule in line for line in broken_rules(tmp_path / "a.py")] == [True]
