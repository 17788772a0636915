"""Every kind of source: what it takes from good files, and the one line it says about bad ones."""

from __future__ import annotations

import csv
import gzip
import json
import os
import textwrap
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from rlgym.errors import RequestError
from rlgym.ssl.config import CsvData, DataConfig, HubData, JsonlData, ParquetData, TextData
from rlgym.ssl.data import csv_source, reading
from rlgym.ssl.data.corpus import check_separator
from tests.ssl.corpora import build, texts, write


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def refusal(config: DataConfig) -> str:
    """The one line of a request that is refused."""
    with pytest.raises(RequestError) as caught:
        build(config)
    line = str(caught.value)
    assert "\n" not in line and Path(config.cache, "sources").exists() is False
    assert [path for path in Path(config.cache).rglob("*") if path.is_file()] == []
    return line


# ---- paths and plain text


def test_files_folders_and_globs(tmp_path: Path, cache: str) -> None:
    folder = tmp_path / "in"
    write(folder / "b" / "2.txt", "two")
    write(folder / "a.md", "one")
    write(folder / "c.txt.gz", gzip.compress(b"three"))
    write(folder / "d.txt.zst", pyarrow.compress(b"four", "zstd", asbytes=True))
    write(folder / ".hidden", "not this")
    write(folder / ".git" / "config", "nor this")
    write(folder / "e[1].txt", "five")
    everything = ["one", "two", "three", "four", "five"]
    assert texts(build(TextData(path=[str(folder)], cache=cache))) == everything
    assert texts(build(TextData(path=[str(folder / "**" / "*.txt")], cache=cache))) == ["two", "five"]
    assert texts(build(TextData(path=[str(folder / "e[1].txt"), str(folder)], cache=cache))) == [
        "five",
        *everything[:-1],
    ]


def test_what_a_path_can_lack(tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "data" / "in.txt", "text")
    assert "data.path is empty" in refusal(TextData(cache=cache))
    assert "data.path=none.txt: no such file" in refusal(TextData(path=["none.txt"], cache=cache))
    assert "data.path=*.none: no file matches" in refusal(TextData(path=["*.none"], cache=cache))
    assert "data.path=empty: the folder holds no file" in refusal(TextData(path=["empty"], cache=cache))
    assert "that ends in .jsonl" in refusal(JsonlData(path=["data"], cache=cache))


def test_an_empty_corpus_says_what_was_dropped(tmp_path: Path, cache: str) -> None:
    path = str(write(tmp_path / "in.txt", "a|bb|"))
    line = refusal(TextData(path=[path], separator="|", min_length=5, cache=cache))
    assert "empty" in line and "3 documents shorter than 5 characters" in line
    assert "1 document shorter than 1 character" in refusal(
        TextData(path=[str(write(tmp_path / "0.txt", ""))], cache=cache)
    )
    path = str(write(tmp_path / "b.jsonl", "{\n"))
    line = refusal(JsonlData(path=[path], bad="skip", cache=cache))
    assert "1 line that cannot be used" in line and "b.jsonl:1" in line
    assert "empty" in refusal(JsonlData(path=[str(write(tmp_path / "c.jsonl", "\n"))], cache=cache))


def test_a_binary_file_is_refused_or_skipped_and_counted(tmp_path: Path, cache: str) -> None:
    folder = tmp_path / "in"
    write(folder / "a.txt", "good")
    write(folder / "b.bin", b"x" * 2_000_000 + b"\0...")  # found out after a piece was taken for text
    write(folder / "c.txt", b"caf\xe9")
    write(folder / "d.gz", gzip.compress(b"text " * 1_000)[:-9])
    write(folder / "e.txt", "last")
    line = refusal(TextData(path=[str(folder)], cache=cache))
    assert (
        f"3 files cannot be used, the first is {folder}/b.bin: byte 2000000 is NUL" in line and "data.bad=skip" in line
    )
    corpus = build(TextData(path=[str(folder)], bad="skip", cache=cache))
    assert texts(corpus) == ["good", "last"] and corpus.facts["bad"] == 3
    assert "c.txt: byte 3 is not UTF-8" in refusal(
        TextData(path=[str(folder / "c.txt")], cache=str(tmp_path / "other"))
    )


def test_a_bad_document_of_a_file_leaves_the_others(tmp_path: Path, cache: str) -> None:
    path = str(write(tmp_path / "in.txt", b"one\n\ncaf\xe9\n\ntwo\n\n\0\n\nthree"))
    config = TextData(path=[path], separator=r"\n\n", bad="skip", cache=cache)
    corpus = build(config)
    assert texts(corpus) == ["one", "two", "three"] and (corpus.facts["bad"], corpus.facts["bad_unit"]) == (
        2,
        "document",
    )
    assert "2 documents cannot be used, the first is " + f"{path}: byte 8 is not UTF-8" in refusal(
        TextData(path=[path], separator=r"\n\n", cache=str(tmp_path / "other"))
    )


def test_a_separator_is_typed_with_escapes_and_must_be_there(tmp_path: Path, cache: str) -> None:
    path = str(write(tmp_path / "in.txt", "one\r\ntwo\tthree"))
    for separator, expected in ((r"\r\n", ["one", "two\tthree"]), (r"\t", ["one\r\ntwo", "three"])):
        config = TextData(path=[path], separator=separator, cache=cache)
        corpus = build(config)
        assert texts(corpus) == expected
        check_separator(corpus, config)
    nowhere = TextData(path=[path], separator="<|end|>", cache=cache)
    for _ in range(2):  # read, and from the cache
        with pytest.raises(RequestError, match=r"data.separator=<\|end\|>: does not occur in .*in.txt"):
            check_separator(build(nowhere), nowhere)


def test_other_encodings_are_named(tmp_path: Path, cache: str) -> None:
    for data, said in (("caf\u00e9".encode("latin-1"), "LATIN1"), ("caf\u00e9".encode("utf-16"), "UTF-16")):
        path = str(write(tmp_path / "in.txt", data))
        assert f"iconv -f {said} -t UTF-8 converts text" in refusal(TextData(path=[path], cache=cache))
    assert "as in binary files and UTF-16" in refusal(
        TextData(path=[str(write(tmp_path / "in.txt", "text".encode("utf-16-le")))], cache=cache)
    )
    name = os.fsdecode(b"caf\xe9.txt")
    write(tmp_path / name, "text")
    assert "which is no text; rename the file" in refusal(TextData(path=[str(tmp_path / name)], cache=cache))


# ---- rows


def test_one_bad_line_of_many_is_one_bad_row(tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad byte, a NUL, a quote that nothing closes: of rows in several pieces only the one is lost, packed or not."""
    monkeypatch.setattr(reading, "PIECE", 1_000)
    good = [f"row {number} \u20ac" for number in range(500)]
    jsonl = [json.dumps({"text": text}, ensure_ascii=False).encode() for text in good]
    table = [f"{number},{text}".encode() for number, text in enumerate(good)]
    cases: list[tuple[type[JsonlData] | type[CsvData], str, list[bytes], bytes]] = [
        (JsonlData, "a.jsonl", jsonl, b'{"text": "caf\xe9"}'),
        (JsonlData, "b.jsonl", jsonl, b'{"text": "\0"}'),
        (JsonlData, "c.jsonl", jsonl, b'{"text": "x", "text": "y"}'),
        (CsvData, "a.csv", [b"id,text", *table], b"9,caf\xe9"),
        (CsvData, "b.csv", [b"id,text", *table], b'9,"never closed'),
        (CsvData, "c.csv", [b"id,text", *table], b'9,"never closed, and a byte \xe9'),
        (CsvData, "d.csv", [b"id,text", *(line.replace(b",", b',"') + b'"' for line in table)], b'9,"never closed'),
    ]
    for cls, name, lines, bad in cases:
        data = b"\n".join([*lines[:250], bad, *lines[250:]]) + b"\n"
        for packed in ("", ".gz"):
            path = write(tmp_path / (name + packed), gzip.compress(data) if packed else data)
            corpus = build(cls(path=[str(path)], bad="skip", cache=cache))
            assert texts(corpus) == good and corpus.facts["bad"] == 1, (name, corpus.facts)
            assert corpus.facts["first_bad"].startswith(f"{path}:251: "), (name, corpus.facts)


def test_a_quoted_line_end_with_a_bad_byte_is_one_row(tmp_path: Path, cache: str) -> None:
    path = str(write(tmp_path / "in.csv", b'text,n\n"a\nb",1\n"c\n\xe9\nd",2\n"e\r\nf",3\n'))
    corpus = build(CsvData(path=[path], bad="skip", cache=cache))
    assert texts(corpus) == ["a\nb", "e\r\nf"] and corpus.facts["bad"] == 1
    assert corpus.facts["first_bad"].startswith(f"{path}:4: byte 18 is not UTF-8")


def test_headers_that_cannot_be(tmp_path: Path, cache: str) -> None:
    for content, said in (
        ("text,label,text\na,b,c\n", "in.csv:1: 2 columns are called 'text'"),
        ("text;label\na;b\n", "in.csv:1: the only column is 'text;label'; data.delimiter sets"),
        (b"caf\xe9,text\na,b\n", "in.csv:1: the header cannot be read: byte 3 is not UTF-8"),
        ("text,n\ra,1\rb,2\r", "in.csv:1: the header cannot be read: a carriage return outside of quotes"),
    ):
        path = str(write(tmp_path / "in.csv", content))
        assert said in refusal(CsvData(path=[path], bad="skip", cache=cache))
    assert "2 columns are called 'a'" in refusal(CsvData(path=[path], columns=["a", "text", "a"], cache=cache))
    path = str(write(tmp_path / "in.csv", "text,,\naa,b,c\n"))  # as spreadsheets write empty columns
    assert "".join(texts(build(CsvData(path=[path], cache=str(tmp_path / "other"))))) == "aa"
    two = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, ["text", "text"])
    pyarrow.parquet.write_table(two, tmp_path / "in.parquet")
    assert "2 columns are called 'text'" in refusal(ParquetData(path=[str(tmp_path / "in.parquet")], cache=cache))


@pytest.mark.parametrize("content", ['[\n {\n  "text": "a"\n }\n]\n', '[{"text": "a"}, {"text": "b"}]'])
def test_a_json_array_is_named(content: str, tmp_path: Path, cache: str) -> None:
    path = str(write(tmp_path / "in.json", content))
    assert f"{path}: a JSON array, not an object a line; jq -c" in refusal(
        JsonlData(path=[path], bad="skip", cache=cache)
    )
    line = refusal(JsonlData(path=[str(write(tmp_path / "one.json", '{\n "text": "a"\n}\n'))], cache=cache))
    assert "an object is one line, as jq -c . writes it" in line


def test_jsonl(tmp_path: Path, cache: str) -> None:
    rows = ["one\nline \u20ac", "two \U0001f600", "three\u2028\r"]
    lines = [json.dumps({"id": 1, "body": row}) for row in rows]
    path = write(tmp_path / "in" / "a.jsonl", "\r\n".join([lines[0], "", lines[1]]) + "\n" + lines[2])
    write(tmp_path / "in" / "README.md", "not a row")
    assert texts(build(JsonlData(path=[str(path.parent)], column="body", cache=cache))) == rows


def test_broken_lines_are_counted_and_the_first_is_named(tmp_path: Path, cache: str) -> None:
    content = (
        '{"text": "good"}\n{"text": "torn\n[1]\n{"text": null}\n{"text": 5}\n{"other": "x"}\n{"text": "\\ud800"}\n'
        + "[" * 100_000
        + '\n\n{"text": "fine"}\n'
    )
    path = write(tmp_path / "in.jsonl", content)
    line = refusal(JsonlData(path=[str(path)], cache=cache))
    assert f"7 lines cannot be used, the first is {path}:2: Unterminated string" in line and "data.bad=skip" in line
    corpus = build(JsonlData(path=[str(path)], bad="skip", cache=cache))
    assert texts(corpus) == ["good", "fine"] and corpus.facts["bad"] == 7
    for wrong, why in (("[1]", "not an object"), ('{"text": null}', "null where text should be")):
        other = write(tmp_path / "other.jsonl", f'{{"text": "a"}}\n{wrong}\n')
        assert f"{other}:2: {why}" in refusal(JsonlData(path=[str(other)], cache=str(tmp_path / "c2")))


def test_rows_before_a_torn_end_stay_when_bad_ones_are_skipped(tmp_path: Path, cache: str) -> None:
    rows = "".join(json.dumps({"text": f"row {number} {number * 7919}"}) + "\n" for number in range(50_000))
    path = write(tmp_path / "in.jsonl.gz", gzip.compress(rows.encode())[:-1_000])
    assert "1 line cannot be used" in refusal(JsonlData(path=[str(path)], cache=cache))
    corpus = build(JsonlData(path=[str(path)], bad="skip", cache=cache))
    assert corpus.document(0) == "row 0 0" and 20_000 < len(corpus.held_out) < 50_000 and corpus.facts["bad"] == 1


def test_an_unknown_column_lists_those_that_exist(tmp_path: Path, cache: str) -> None:
    jsonl = str(write(tmp_path / "in.jsonl", '{"title": "a", "contents": "b"}\n'))
    table = str(write(tmp_path / "in.csv", "title,contents\na,b\n"))
    parquet = str(tmp_path / "in.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"title": ["a"], "contents": ["b"]}), parquet)
    for config in (
        JsonlData(path=[jsonl], column="content", cache=cache),
        CsvData(path=[table], column="content", cache=cache),
        CsvData(path=[table], columns=["title", "contents"], column="content", cache=cache),
        ParquetData(path=[parquet], column="content", cache=cache),
    ):
        line = refusal(config)
        assert "data.column=content" in line and "title, contents" in line and "did you mean contents?" in line


def test_csv_equals_what_was_written(tmp_path: Path, cache: str) -> None:
    rows = [["1", 'He said "no",\r\nand left'], ["2", "caf\u00e9; \U0001f600"], ["3", " spaces "], ["4", "a\tb\n\n"]]
    for delimiter, suffix, key in ((",", ".csv", ""), ("\t", ".tsv", ""), (";", ".csv", ";"), ("\t", ".csv", r"\t")):
        path = tmp_path / f"in{suffix}"
        with path.open("w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it
            csv.writer(file, delimiter=delimiter).writerows([["id", "text"], *rows])
        assert texts(build(CsvData(path=[str(path)], delimiter=key, cache=cache))) == [row[1] for row in rows]


def test_csv_without_a_header_and_with_quotes_as_they_are(tmp_path: Path, cache: str) -> None:
    path = str(write(tmp_path / "spam.tsv", 'ham\t"Hi, he said\nspam\tWin "now"\n\nham\tbye\n'))
    config = CsvData(path=[path], columns=["label", "text"], quoting=False, cache=cache)
    assert texts(build(config)) == ['"Hi, he said', 'Win "now"', "bye"]
    line = refusal(CsvData(path=[path], columns=["label", "text"], cache=str(tmp_path / "other")))
    assert "spam.tsv:1: '\\t' expected after '\"'" in line and "data.quoting=false" in line
    path = str(write(tmp_path / "open.csv", 'text\nfine\n"never closed\n'))
    line = refusal(CsvData(path=[path], cache=str(tmp_path / "other")))
    assert "open.csv:3: unexpected end of data" in line


def test_bad_rows_of_csv(tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_source, "LONGEST_FIELD", 50)
    limit = csv.field_size_limit()
    path = str(write(tmp_path / "in.csv", f'id,text\n1,"two\nlines"\n2\n3,a,b\n4,{"x" * 51}\n5,"a"b\n6,good\n'))
    assert "4 rows cannot be used" in (line := refusal(CsvData(path=[path], cache=cache)))
    assert "in.csv:4: 1 values where there are 2 columns" in line
    corpus = build(CsvData(path=[path], bad="skip", cache=cache))
    assert texts(corpus) == ["two\nlines", "good"] and corpus.facts["bad"] == 4
    assert csv.field_size_limit() == limit  # the process's own is as before
    path = str(write(tmp_path / "long.csv", f"text\n{'x' * 51}\n"))
    assert "field larger than field limit (50)" in refusal(CsvData(path=[path], cache=str(tmp_path / "other")))
    assert "data.delimiter='ab'" in refusal(CsvData(path=[path], delimiter="ab", cache=str(tmp_path / "other")))


def test_parquet(tmp_path: Path, cache: str) -> None:
    rows: list[str | None] = [f"row {number} \u20ac" for number in range(5_000)]
    path = tmp_path / "in" / "a.parquet"
    path.parent.mkdir()
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        table = pyarrow.table({"n": range(5_000), "text": pyarrow.array(rows).cast(kind)})
        pyarrow.parquet.write_table(table, path, row_group_size=1_700)
        assert texts(build(ParquetData(path=[str(path.parent)], cache=cache))) == rows
    rows[1_800] = None
    pyarrow.parquet.write_table(pyarrow.table({"n": range(5_000), "text": rows}), path)
    fresh = str(tmp_path / "other")
    assert "a.parquet:1801: null where text should be" in refusal(ParquetData(path=[str(path)], cache=fresh))
    assert "holds int64" in refusal(ParquetData(path=[str(path)], column="n", cache=fresh))
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), path, row_group_size=1_000, compression="gzip")
    group = pyarrow.parquet.read_metadata(path).row_group(3).column(0)
    data = bytearray(path.read_bytes())
    begin = group.data_page_offset
    data[begin : begin + 400] = bytes(400)
    path.write_bytes(data)
    corpus = build(ParquetData(path=[str(path)], bad="skip", cache=cache))
    assert texts(corpus) == [row for number, row in enumerate(rows) if number not in {1_800, *range(3_000, 4_000)}]
    assert corpus.facts["bad"] == 1_001
    path.write_bytes(path.read_bytes()[:-100])
    assert "1 row cannot be used" in (line := refusal(ParquetData(path=[str(path)], cache=fresh)))
    assert str(path) in line


# ---- the hub's layout


def test_hub_folders(tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    folder = tmp_path / "set"
    parts = {name: [f"{name} {number} \u20ac" for number in range(1_500)] for name in ("train", "test")}
    (folder / "data").mkdir(parents=True)
    for name, rows in parts.items():
        for part in range(2):
            table = pyarrow.table({"n": range(750), "text": rows[750 * part : 750 * part + 750]})
            pyarrow.parquet.write_table(table, folder / "data" / f"{name}-0000{part}-of-00002.parquet")
    card = """
        configs:
        - config_name: default
          data_files:
          - {split: train, path: data/train-*}
          - {split: test, path: data/test-*}
        - config_name: small
          data_files:
          - {split: train, path: data/test-00000*}
    """
    write(folder / "README.md", f"---\n{textwrap.dedent(card).strip()}\n---\n# A data set\n")
    there = str(folder)
    assert texts(build(HubData(path=there, cache=cache))) == parts["train"]
    assert texts(build(HubData(path=there, split="test", streaming=True, cache=cache))) == parts["test"]
    assert texts(build(HubData(path=there, config="small", cache=cache))) == parts["test"][:750]
    assert texts(build(HubData(path=there, max_documents=1_100, cache=cache))) == parts["train"][:1_100]
    assert list((tmp_path / "hf").rglob("*.arrow")) == []  # no second copy
    assert texts(build(HubData(path=there, split="train[:10]", cache=cache))) == parts["train"][:10]
    fresh = str(tmp_path / "other")
    line = refusal(HubData(path=there, column="txt", cache=fresh))
    assert "data.column=txt" in line and "n, text" in line
    assert f"data.path={there} data.split=none: cannot be loaded" in refusal(
        HubData(path=there, split="none", cache=fresh)
    )
    assert "data.config=none" in refusal(HubData(path=there, config="none", cache=fresh))
    assert "row 1: a number where text" in refusal(HubData(path=there, column="n", cache=fresh))
    write(folder / "set.py", "raise SystemExit('code of a data set was run')")
    assert "cannot be loaded" in refusal(HubData(path=there, cache=fresh))


def test_hub_jsonl_folders(tmp_path: Path, cache: str) -> None:
    write(tmp_path / "set" / "train.jsonl", '{"text": "one"}\n{"text": "two"}\n{"text": null}\n')
    assert "set, row 3: null" in refusal(HubData(path=str(tmp_path / "set"), cache=cache))
    assert texts(build(HubData(path=str(tmp_path / "set"), bad="skip", cache=cache))) == ["one", "two"]


def test_a_name_without_network_is_one_line(cache: str) -> None:
    assert "data.path=no-one/nothing data.split=train: cannot be loaded" in refusal(
        HubData(path="no-one/nothing", cache=cache)
    )
    assert "data.path is empty" in refusal(HubData(cache=cache))


def test_a_name_is_known_again_by_its_commit(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[str, str | None]] = []

    def load(path: str, name: str | None, **rest: object) -> datasets.Dataset:
        asked.append((path, str(rest["revision"])))
        return datasets.Dataset.from_dict({"text": ["one", "two"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    for commit in ("a" * 40, "a" * 40, "b" * 40):
        corpus = build(HubData(path="some/set", revision=commit, cache=cache))
        assert corpus.facts["revision"] == commit and corpus.facts["source"].endswith("datasets/some/set")
    assert asked == [("some/set", "a" * 40), ("some/set", "b" * 40)]
