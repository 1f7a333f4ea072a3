"""Where prompts come from: openings of labelled reviews, or a file of a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Tag

from grade_lightning.settings.fields import Bool, Int, Text, component, key, settings

SHUFFLE = 2**32 - 1


@settings
class PromptSettings:
    """The paper's rule: a prompt is the opening of a review."""

    max_sentences: Int = key("whole sentences of a prompt", default=2, ge=1)
    max_chars: Int = key("longest prompt in characters; a first sentence that does not fit is cut at a word", default=200, ge=1)
    max_tokens: Int = key("longest prompt in tokens", default=32, ge=1)


@settings
class SyntheticSettings:
    """Reviews from a seeded grammar: no network, no files."""

    train_rows: Int = key("labelled training reviews", default=7000, ge=1, le=10_000_000)
    test_rows: Int = key("labelled test reviews", default=500, ge=1, le=10_000_000)
    unsupervised_rows: Int = key("unlabelled reviews, for a base LM", default=10000, ge=0, le=10_000_000)
    seed: Int = key("of the grammar", default=0, ge=0)


@settings
class FolderSettings:
    """Reviews in a folder."""

    path: Text | None = key("the folder", default=None)


@settings
class HubSettings:
    """A dataset in the Hugging Face Hub's format."""

    path: Text = key("an id, or the path of a local copy", default="stanfordnlp/imdb")
    revision: Text | None = key("of the repository", default=None)


SOURCES: dict[str, type] = {
    "grade_lightning.data.synthetic.SyntheticSource": SyntheticSettings,
    "grade_lightning.data.sources.ParquetSource": FolderSettings,
    "grade_lightning.data.sources.AclImdbSource": FolderSettings,
    "grade_lightning.data.sources.HubSource": HubSettings,
}


@settings
class DataSettings:
    """Reviews, the paper's four splits of them, and prompts."""

    source: Any = component("where reviews come from")
    path: Text | None = key("folder or hub id of the source", default=None)
    revision: Text | None = key("of a hub repository", default=None)
    reward_rows: Int = key("labelled training rows that the reward head learns from", default=5000, ge=1)
    policy_rows: Int = key("labelled training rows whose openings are training prompts", default=10000, ge=1)
    validation_rows: Int = key("labelled training rows whose openings are validation prompts", default=2000, ge=1)
    order: Literal["canonical", "source"] = key(
        "rows sorted by a hash of their text and shuffled, the same from every source, or the source's own order, shuffled",
        default="canonical",
    )
    shuffle_seed: Int = key("of the order", default=42, ge=0, le=SHUFFLE)
    drop_duplicates: Bool = key("keep only the first row of each text, test rows first", default=False)
    clean_html: Bool = key("<br /> becomes a newline", default=True)
    prompt: PromptSettings = key("how a prompt is made of a review", default=PromptSettings())


@settings
class LengthSettings:
    """How long a prompt of a user's own may be."""

    max_tokens: Int = key("longest prompt in tokens, special tokens and chat template counted", default=256, ge=1)


@settings
class PromptDataSettings:
    """Prompts of your own: a column of a file or of a hub data set, read verbatim.

    Attributes:
        option: of the group ``data`` that has these keys.
    """

    option: ClassVar[str] = "prompts"

    path: Text = key("a .jsonl, .json, .csv or .parquet file, a folder of such files, or the id of a hub data set")
    prompt_column: Text = key('column with the prompts: texts, or chats as lists of {"role", "content"}', default="prompt")
    validation_path: Text | None = key("where validation prompts come from; null = rows of data.path", default=None)
    test_path: Text | None = key("where test prompts come from; null = rows of data.path", default=None)
    validation_rows: Int = key("rows of data.path set aside for validation where data.validation_path is null", default=100, ge=1)
    test_rows: Int = key("rows of data.path set aside for the test where data.test_path is null", default=200, ge=1)
    shuffle_seed: Int = key("of the order, which decides the rows that are set aside", default=42, ge=0, le=SHUFFLE)
    revision: Text | None = key("of the hub repository at data.path", default=None)
    hub_split: Text = key("of the hub data set at data.path", default="train")
    hub_config: Text | None = key("name of the hub data set's configuration, where it has several", default=None)
    truncate: Literal["error", "end"] = key("a prompt of too many tokens is an error, or is cut at its end", default="error")
    prompt: LengthSettings = key("how long a prompt may be", default=LengthSettings())


def _kind(value: Any) -> str:
    """Which settings plain values are meant for: those of a user's prompts name a column and no source of reviews."""
    if isinstance(value, Mapping):
        return PromptDataSettings.__name__ if "prompt_column" in value and "source" not in value else DataSettings.__name__
    return type(value).__name__ if isinstance(value, DataSettings | PromptDataSettings) else DataSettings.__name__


AnyData = Annotated[
    Annotated[DataSettings, Tag("DataSettings")] | Annotated[PromptDataSettings, Tag("PromptDataSettings")], Discriminator(_kind)
]
