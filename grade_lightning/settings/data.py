"""Where reviews come from, their splits, and the prompts made of them."""

from __future__ import annotations

from typing import Any, Literal

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
