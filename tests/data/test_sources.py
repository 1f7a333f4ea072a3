"""Sources: the formats they read, and what they say when they cannot."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grade_lightning.data.corpus import make_splits
from grade_lightning.data.sources import AclImdbSource, HubSource, ParquetSource

TEXTS = [f"Film {i} was watched.<br /><br />It ended." for i in range(40)]
LABELS = [i % 2 for i in range(40)]
SIZES = {"reward_rows": 10, "policy_rows": 10, "validation_rows": 10}


def write_parquet(folder, texts=TEXTS, labels=LABELS, names=("train", "test"), columns=("text", "label")):
    folder.mkdir(exist_ok=True, parents=True)
    for name in names:
        pq.write_table(pa.table({columns[0]: texts, columns[1]: labels}), folder / f"{name}-00000-of-00001.parquet")
    return folder


def write_acl(folder):
    for part in ("train", "test"):
        for name, label in (("neg", 0), ("pos", 1)):
            (folder / "aclImdb" / part / name).mkdir(parents=True)
            for i, (text, own) in enumerate(zip(TEXTS, LABELS, strict=True)):
                if own == label:
                    (folder / "aclImdb" / part / name / f"{i}_{7 if label else 2}.txt").write_text(text)
    (folder / "aclImdb" / "train" / "unsup").mkdir()
    (folder / "aclImdb" / "train" / "unsup" / "0_0.txt").write_text("No label.")
    return folder


def test_every_source_gives_the_same_splits(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    parquet = ParquetSource(write_parquet(tmp_path / "parquet"))
    acl = AclImdbSource(write_acl(tmp_path))
    hub = HubSource(str(write_parquet(tmp_path / "hub")))
    prints = [make_splits(source.load(), **SIZES).fingerprints for source in (parquet, acl, hub)]
    assert prints[0] == prints[1] == prints[2]


def test_acl_unsupervised(tmp_path):
    reviews = AclImdbSource(write_acl(tmp_path)).load().unsupervised()
    assert list(reviews.texts) == ["No label."]
    assert reviews.labels.tolist() == [-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": ("review", "label")}, r"lacks the column\(s\) \['text'\]"),
        ({"texts": ["", *TEXTS[1:]]}, r"1 row\(s\) without text"),
        ({"labels": [None, *LABELS[1:]]}, "1 without label"),
        ({"labels": [5, *LABELS[1:]]}, "labels other than"),
        ({"texts": [], "labels": []}, "no rows"),
        ({"names": ("train",)}, r"no test\*.parquet"),
    ],
)
def test_malformed_parquet_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        ParquetSource(write_parquet(tmp_path / "data", **change)).load()


def test_not_a_parquet_file(tmp_path):
    (tmp_path / "train.parquet").write_text("text,label")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        ParquetSource(tmp_path).load()


def test_missing_unsupervised_part_is_an_error_only_when_needed(tmp_path):
    corpus = ParquetSource(write_parquet(tmp_path / "data")).load()
    with pytest.raises(ValueError, match="unsupervised"):
        corpus.unsupervised()


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"needs data\.path"):
        ParquetSource(None)
    with pytest.raises(ValueError, match="is not a folder"):
        ParquetSource(tmp_path / "missing")


def test_unreachable_hub_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="data=parquet"):
        HubSource("nobody/no-such-dataset").load()


def test_real_imdb(imdb_folder):
    corpus = ParquetSource(imdb_folder).load()
    splits = make_splits(corpus)
    sizes = [len(part) for part in (splits.reward, splits.policy, splits.validation, splits.unused, splits.test)]
    assert sizes == [5000, 10000, 2000, 8000, 25000]
    across = sum(count for pair, count in splits.duplicates.items() if pair.endswith("/test") or pair.startswith("test/"))
    assert across == 123  # training texts that stand in the test part, counted independently
    assert 0.45 < np.mean(splits.reward.labels) < 0.55
