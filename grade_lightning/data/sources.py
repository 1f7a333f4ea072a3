"""Where real reviews come from: a Hugging Face dataset, a folder of Parquet files, or the unpacked ``aclImdb`` folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grade_lightning.data.corpus import Corpus, Reviews

_UNSUPERVISED_HELP = "pretraining a base LM needs an unsupervised part, and {where} has none"


def _from_columns(table: pa.Table, where: str, *, labelled: bool) -> Reviews:
    missing = {"text", "label"} - set(table.column_names)
    if missing:
        raise ValueError(f"{where} lacks the column(s) {sorted(missing)}: it needs `text` (string) and `label` (0 or 1)")
    if table.num_rows == 0:
        raise ValueError(f"{where} has no rows")
    texts, labels = table.column("text").to_pylist(), table.column("label")
    empty = sum(1 for text in texts if not isinstance(text, str) or not text.strip())
    if empty or labels.null_count:
        raise ValueError(f"{where} has {empty} row(s) without text and {labels.null_count} without label: remove them first")
    values = np.asarray(labels.to_pylist(), dtype=np.int64)
    if labelled and not np.isin(values, (0, 1)).all():
        raise ValueError(f"{where} has labels other than 0 (negative) and 1 (positive)")
    return Reviews(texts, values if labelled else np.full_like(values, -1))


_HOLDS = {
    "parquet": "train*.parquet and test*.parquet (columns text, label)",
    "aclimdb": "the unpacked archive (train/neg/*.txt and so on)",
}


def _existing(path: str | Path | None, group: str) -> Path:
    if not path:
        raise ValueError(f"data={group} needs data.path=FOLDER, with {_HOLDS[group]}")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.path={path} is not a folder: give the one with {_HOLDS[group]}")
    return folder


class ParquetSource:
    """A folder with ``train*.parquet``, ``test*.parquet`` and optionally ``unsupervised*.parquet`` (columns text, label)."""

    def __init__(self, path: str | Path | None):
        self.folder = _existing(path, "parquet")

    def _read(self, part: str, purpose: str) -> Reviews:
        files = sorted(self.folder.glob(f"{part}*.parquet"))
        if not files:
            raise ValueError(f"{self.folder} has no {part}*.parquet: {purpose}")
        tables = []
        for file in files:
            try:
                tables.append(pq.read_table(file))
            except pa.ArrowInvalid as error:
                raise ValueError(f"{file} is not a readable Parquet file ({error})") from error
        return _from_columns(
            pa.concat_tables(tables, promote_options="permissive"), str(self.folder / f"{part}*.parquet"), labelled=part != "unsupervised"
        )

    def load(self) -> Corpus:
        """Read ``train*.parquet`` and ``test*.parquet``, see :meth:`grade_lightning.data.corpus.Source.load`."""
        needed = "data=parquet needs train*.parquet and test*.parquet"
        unsupervised = _UNSUPERVISED_HELP.format(where=self.folder)
        return Corpus(self._read("train", needed), self._read("test", needed), lambda: self._read("unsupervised", unsupervised))


class AclImdbSource:
    """The unpacked archive of Maas et al. (2011): ``{train,test}/{neg,pos}/*.txt`` and ``train/unsup/*.txt``."""

    def __init__(self, path: str | Path | None):
        folder = _existing(path, "aclimdb")
        self.folder = folder / "aclImdb" if (folder / "aclImdb").is_dir() else folder

    def _read(self, *parts: tuple[str, int]) -> Reviews:
        texts: list[str] = []
        labels: list[int] = []
        for name, label in parts:
            # Numeric file ids: 10_7.txt comes after 9_8.txt.
            files = sorted((self.folder / name).glob("*.txt"), key=lambda f: (len(f.stem.split("_")[0]), f.stem))
            if not files:
                raise ValueError(f"{self.folder / name} holds no *.txt: point data.path at the unpacked aclImdb folder")
            texts += [file.read_text(encoding="utf-8") for file in files]
            labels += [label] * len(files)
        return Reviews(texts, np.asarray(labels, dtype=np.int64))

    def load(self) -> Corpus:
        """Read the text files, see :meth:`grade_lightning.data.corpus.Source.load`."""
        labelled = [self._read((f"{part}/neg", 0), (f"{part}/pos", 1)) for part in ("train", "test")]
        return Corpus(labelled[0], labelled[1], lambda: self._read(("train/unsup", -1)))


class HubSource:
    """A dataset in the Hugging Face Hub's format, by hub id or by the path of a local copy, read with ``datasets``."""

    def __init__(self, path: str, revision: str | None = None):
        self.path, self.revision = path, revision

    def _read(self, split: str) -> Reviews:
        import datasets  # slow to import, and only this source needs it

        try:
            dataset = datasets.load_dataset(self.path, split=split, revision=self.revision)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise ValueError(
                f"the dataset {self.path} ({split}) could not be loaded: {_first_line(error)}. Without network, use data=parquet or "
                "data=aclimdb with data.path=FOLDER, or data=synthetic, which needs nothing"
            ) from error
        return _from_columns(dataset.with_format("arrow")[:], f"{self.path} ({split})", labelled=split != "unsupervised")

    def load(self) -> Corpus:
        """Read the dataset's splits, see :meth:`grade_lightning.data.corpus.Source.load`."""
        return Corpus(self._read("train"), self._read("test"), lambda: self._read("unsupervised"))


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300].rstrip(".")
