from __future__ import annotations

import json

import pytest
from datasets import Dataset

from fastprune.data import load_samples
from fastprune.data.files import read_file
from fastprune.errors import DataError

ROWS = [
    {"sentence": "the cat sat", "label": 1},
    {"sentence": "a dog , very bad", "label": 0},
    {"sentence": "null", "label": 1},
]


def write(path, rows=ROWS):
    kind = path.suffix
    if kind == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif kind == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == ".json":
        path.write_text(json.dumps(rows))
    else:
        mark = "\t" if kind == ".tsv" else ","
        cells = [[f'"{r["sentence"]}"' if mark == "," else r["sentence"], r["label"]] for r in rows]
        lines = [mark.join(map(str, row)) for row in [["sentence", "label"], *cells]]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl", "json", "parquet"])
def test_every_format_gives_the_same_samples(tmp_path, tokenizer, config, suffix):
    path = write(tmp_path / f"data.{suffix}")
    samples = load_samples(path, tokenizer, model_config=config)
    expected = load_samples(ROWS, tokenizer, model_config=config)
    assert samples.features == expected.features
    assert samples.labels.tolist() == [1, 0, 1]
    assert samples.ids == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [path]


def test_tab_files_are_unquoted(tmp_path):
    text = 'sentence\tlabel\n"lone quote\t1\nsaid " twice " "\t0\n\'\t1\nNA\t0\n'
    path = tmp_path / "data.tsv"
    path.write_text(text)
    assert read_file(path).column("sentence") == ['"lone quote', 'said " twice " "', "'", "NA"]


def test_byte_order_mark_is_no_part_of_a_column_name(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("sentence,label\ncat,1\n", encoding="utf-8-sig")
    assert read_file(path).names == ["sentence", "label"]


def test_json_document_with_rows_under_data(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"version": "1", "data": ROWS}, indent=1))
    assert read_file(path).column("sentence") == [row["sentence"] for row in ROWS]


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl", "json", "parquet"])
def test_empty_file(tmp_path, suffix):
    path = tmp_path / f"data.{suffix}"
    path.touch()
    with pytest.raises(DataError, match="holds no rows; give"):
        read_file(path)


@pytest.mark.parametrize(
    ("suffix", "content"),
    [("tsv", "sentence\tlabel\n"), ("csv", "text"), ("json", "[]"), ("json", '{"data": []}')],
)
def test_file_without_rows(tmp_path, suffix, content):
    path = tmp_path / f"data.{suffix}"
    path.write_text(content)
    with pytest.raises(DataError, match="holds no rows"):
        read_file(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin.tsv", "sentence\tlabel\ncaf\xe9\t1\n".encode("latin-1")),
        ("ragged.tsv", b"sentence\tlabel\na\t1\nb\t1\textra\n"),
        ("broken.jsonl", b'{"sentence": "a", "label": 1}\n{"sentence": \n'),
        ("broken.json", b'[{"sentence": "a"'),
        ("broken.parquet", b"not parquet at all"),
    ],
)
def test_undecodable_file_is_one_line_with_a_cure(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as") as caught:
        read_file(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_unknown_suffix_lists_the_known(tmp_path):
    path = tmp_path / "data.xlsx"
    path.write_text("x")
    with pytest.raises(DataError, match=r"\.csv, \.json, \.jsonl, \.parquet, \.tsv"):
        read_file(path)


def test_column_named_twice(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("text,text\na,b\n")
    with pytest.raises(DataError, match="names a column twice"):
        read_file(path)


@pytest.mark.parametrize(("name", "rows"), [("train", 60614), ("validation", 872)])
def test_sst2_loads_line_by_line(assets, name, rows):
    path = assets / "data" / "sst2" / f"{name}.tsv"
    lines = path.read_bytes().decode().removesuffix("\n").split("\n")[1:]
    table = read_file(path)
    assert len(table) == len(lines) == rows
    pairs = zip(table.column("sentence"), table.column("label"), strict=True)
    assert [f"{text}\t{label}" for text, label in pairs] == lines
