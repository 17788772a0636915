"""Corpora that need no file: the standard library and additions."""

from __future__ import annotations

import ast
import sysconfig
import textwrap
from pathlib import Path

import numpy as np
import pytest

from rlgym.ssl.config import AdditionsData, StdlibData
from rlgym.ssl.data.stdlib_source import functions, plain_functions
from tests.ssl.corpora import build, texts, write


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "lib"
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(folder))
    return folder


def test_the_standard_library_without_what_is_installed_beside_it(
    tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = library(tmp_path, monkeypatch)
    write(folder / "b.py", "b = 1\n")
    write(folder / "a" / "z.py", "z = 1\n")
    write(folder / "pydoc_data" / "topics.py", "topics = {'x': 'y'}\n")
    write(folder / "broken.py", b"# \xe9\n")
    write(folder / "text.txt", "no source")
    for other in ("site-packages", "dist-packages", "a/__pycache__"):
        write(folder / other / "no.py", f"# {other}\n")
    corpus = build(StdlibData(cache=cache))
    assert texts(corpus) == ["z = 1\n", "b = 1\n", "topics = {'x': 'y'}\n"]
    assert corpus.facts["bad"] == 1 and corpus.facts["first_bad"].startswith("broken.py: byte 2 ")
    assert corpus.facts["licence"] == "PSF-2.0"


def test_functions_are_moved_to_the_margin() -> None:
    source = textwrap.dedent("""
        import x

        @x.decorated(
            1)
        def first(a):
            # comment
            return '''
        not indented
            indented'''

        class A:
            y = 1

            async def second(self):
                def inside(): pass
                return "\x0c\u2028"

            class B:
                @property
                def third(self): return 3

        if x:
            def conditional(): pass
    """)
    first, second, third = functions(source)
    assert first.startswith("@x.decorated(\n    1)\ndef first(a):\n    # comment\n") and first.endswith("indented'''\n")
    assert second == 'async def second(self):\n    def inside(): pass\n    return "\x0c\u2028"\n'
    assert third == "@property\ndef third(self): return 3\n"
    assert list(functions(source.replace("\n", "\r\n"))) == [first, second, third]
    assert list(functions("def broken(:\n")) == [] and list(functions("\0")) == []


def test_plain_functions_have_a_statement_a_line_and_neither_comments_nor_docstring() -> None:
    source = textwrap.dedent("""
        class A:
            @wrap
            def long(self):
                '''Two
                lines.'''
                # what follows
                return f(1,  # one
                         2)

        def nothing_else():
            "Says what, does nothing."

        async def beside(): "On the line of the def."; return "text"
    """)
    assert list(plain_functions(source)) == [
        "@wrap\ndef long(self):\n    return f(1, 2)\n",
        "async def beside():\n    return 'text'\n",
    ]
    assert list(plain_functions("def broken(:\n")) == []


def test_every_function_document_of_the_library_parses(
    tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path(sysconfig.get_path("stdlib"))
    folder = library(tmp_path, monkeypatch)
    for name in ("argparse", "ast", "dataclasses", "textwrap", "typing", "inspect"):
        write(folder / f"{name}.py", (real / f"{name}.py").read_bytes())
    corpus = build(StdlibData(documents="functions", deduplicate=False, cache=cache))
    assert len(corpus.held_out) > 500
    for text in texts(corpus):
        (node,) = ast.parse(text).body
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def test_mixed_takes_short_functions_out_of_the_library(
    tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is taken out is not in the file any more: no text is on two sides of the split. Tests stay whole."""
    folder = library(tmp_path, monkeypatch)
    long = "def long():\n" + "    x = 1\n" * 100
    method = "    @wrap\n    # of two\n    def one(self):\n        'Says.'\n        return (1,\n            2)\n"
    above, below = "'''About.'''\nclass A:\n    '''Class.'''\n", f"    y = 2\n\n{long}"
    write(folder / "a.py", (above + method + below).replace("\n", "\r\n"))
    write(folder / "only.py", "def f():\n    return 1\n")
    write(folder / "broken.py", "def f(:\n")
    tests = {name: f"def f():\n    return {name!r}\n" for name in ("test/a.py", "b/test_b.py", "c/tests/d.py")}
    for name, source in tests.items():
        write(folder / name, source)
    found = texts(build(StdlibData(documents="mixed", cache=cache, deduplicate=False)))
    short = ["@wrap\ndef one(self):\n    return (1, 2)\n", "def f():\n    return 1\n"]
    assert sorted(found) == sorted([*short, above + below, "def f(:\n", *tests.values()])


def test_additions(cache: str) -> None:
    corpus = build(AdditionsData(cache=cache))
    found = texts(corpus)
    assert len(set(found)) == len(found) == 90 * 90 and found[0] == "10+10=20" and found[-1] == "99+99=198"
    assert all(str(sum(map(int, text.split("=")[0].split("+")))) == text.split("=")[1] for text in found)
    assert 0.04 < corpus.held_out.mean() < 0.06
    assert len(texts(build(AdditionsData(digits=1, cache=cache)))) == 81


def test_the_default_corpus_of_this_machine(cache: str) -> None:
    corpus = build(StdlibData(cache=cache))
    assert len(corpus.text) > 5_000_000 and len(corpus.held_out) > 300
    share = np.diff(corpus.starts)[corpus.held_out].sum() / len(corpus.text)
    assert 0.05 <= share < 0.1
    corpus.text.tobytes().decode()
