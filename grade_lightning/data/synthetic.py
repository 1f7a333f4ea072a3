"""A seeded grammar of film reviews: the corpus that lets everything run without network or downloads.

A review opens with two sentences that are neutral or that point *against* its label, so that a prompt cut
from the opening leaves the sentiment to the continuation.  The body mixes praise and blame about named aspects of
the film; about one judgement in fourteen disagrees with the label, as in real reviews.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np

from grade_lightning.data.corpus import Corpus, Reviews

AGREEMENT = 0.93  # probability that one body sentence agrees with the review's label
CONTRARY_OPENING = 0.35  # probability that the opening raises the opposite expectation

_TITLE_A = ["Silent", "Golden", "Broken", "Crimson", "Last", "Hidden", "Winter", "Paper", "Burning", "Distant", "Velvet",
            "Second", "Hollow", "Northern", "Blue"]  # fmt: skip
_TITLE_B = ["Harbor", "Garden", "Promise", "Mirror", "Station", "River", "Letter", "Orchard", "Signal", "Crown", "Bridge",
            "Summer", "Circus", "Island", "Witness"]  # fmt: skip
_GENRES = ["western", "thriller", "comedy", "drama", "musical", "mystery", "romance", "horror film", "war film",
           "crime story", "road movie", "space adventure", "family film", "courtroom drama"]  # fmt: skip
_HERO = ["retired sailor", "young teacher", "tired detective", "lonely farmer", "nervous lawyer", "famous singer",
         "stubborn doctor", "quiet librarian", "small town mayor", "former boxer", "pilot", "gifted cook"]  # fmt: skip
_QUEST = ["returns to the town where he grew up", "looks for a missing brother", "inherits an old hotel",
          "tries to save a school from closing", "crosses the desert with a stranger", "takes one last job",
          "finds a box of letters", "has to testify against a friend", "moves in with a distant cousin",
          "trains a team that nobody believes in", "hides from a dangerous gang", "falls in love at a funeral"]  # fmt: skip
_WHEN = ["on a rainy Tuesday", "last weekend", "on a long flight", "late at night", "at a small festival",
         "on an old tape", "during the holidays", "at a matinee", "on cable", "twice this month"]  # fmt: skip
_WITH = ["with my sister", "with two friends", "on my own", "with my parents", "with a full house", "with my neighbor"]
_NAMES = ["Marlow", "Anders", "Keaton", "Vega", "Holloway", "Brandt", "Osborne", "Quinn", "Sato", "Delacroix", "Pryor", "Lind"]
_YEAR = ["1958", "1964", "1971", "1977", "1983", "1989", "1994", "1998", "2001", "2004"]

_ASPECT = {
    "acting": (["superb", "moving", "natural", "honest", "brilliant", "warm", "fearless", "subtle"],
               ["wooden", "stiff", "lifeless", "forced", "embarrassing", "hollow", "clumsy", "unconvincing"]),
    "story": (["gripping", "clever", "touching", "original", "satisfying", "rich", "surprising", "believable"],
              ["predictable", "confused", "thin", "pointless", "ridiculous", "stale", "tedious", "incoherent"]),
    "script": (["witty", "sharp", "intelligent", "graceful", "funny", "thoughtful", "lively", "precise"],
               ["lazy", "clumsy", "dull", "preachy", "childish", "awful", "careless", "repetitive"]),
    "direction": (["confident", "inspired", "elegant", "careful", "bold", "masterful", "inventive", "sensitive"],
                  ["sloppy", "flat", "aimless", "amateurish", "heavy handed", "uninspired", "messy", "timid"]),
    "music": (["haunting", "beautiful", "lovely", "memorable", "stirring", "delicate", "joyful", "perfect"],
              ["annoying", "loud", "cheap", "grating", "intrusive", "forgettable", "shrill", "tiresome"]),
    "photography": (["gorgeous", "stunning", "luminous", "striking", "rich", "breathtaking", "crisp", "poetic"],
                    ["ugly", "murky", "drab", "shaky", "blurry", "lifeless", "grey", "cheap"]),
    "pacing": (["perfect", "brisk", "assured", "tight", "hypnotic", "wonderful", "smooth", "exciting"],
               ["glacial", "uneven", "sluggish", "painful", "endless", "exhausting", "slow", "terrible"]),
    "ending": (["unforgettable", "beautiful", "powerful", "earned", "moving", "brilliant", "perfect", "wise"],
               ["absurd", "insulting", "rushed", "laughable", "weak", "stupid", "unearned", "awful"]),
}  # fmt: skip
_ADVERB = ["really", "truly", "simply", "quite", "rather", "absolutely", "surprisingly", "consistently", "often", "just"]
_GOOD_PERSON = ["carries every scene", "gives the performance of a lifetime", "lights up the screen", "is a joy to watch",
                "finds real tenderness in the part", "deserves every award", "steals the film", "has never been better"]  # fmt: skip
_BAD_PERSON = ["sleepwalks through every scene", "gives the worst performance of the year", "mumbles every line",
               "is painful to watch", "seems bored with the part", "should have stayed at home", "ruins the film",
               "has never been worse"]  # fmt: skip
_GOOD_EFFECT = ["I laughed until I cried", "I was on the edge of my seat", "I could not look away", "it stayed with me for days",
                "my eyes were wet at the end", "the whole audience cheered", "I wanted to see it again at once",
                "time simply flew"]  # fmt: skip
_BAD_EFFECT = ["I checked my watch every minute", "I nearly fell asleep", "I wanted my money back", "half the audience walked out",
               "I could not wait for it to end", "nobody laughed once", "I felt cheated", "I turned it off after an hour"]  # fmt: skip
_GOOD_VERDICT = ["Highly recommended.", "A small masterpiece.", "Do not miss it.", "One of the best films of its kind.",
                 "I loved it.", "See it if you can.", "A wonderful evening.", "Nine out of ten from me."]  # fmt: skip
_BAD_VERDICT = ["Avoid it at all costs.", "A complete waste of time.", "Do not bother.", "One of the worst films of its kind.",
                "I hated it.", "Skip it if you can.", "A dreadful evening.", "Two out of ten from me."]  # fmt: skip
_HIGH_HOPES = ["Everyone I know had told me that it was a masterpiece.", "The reviews were glowing, so my hopes were high.",
               "I have admired {name} for years and expected something great.", "It won a prize at a festival and looked wonderful.",
               "The trailer was brilliant and I could hardly wait."]  # fmt: skip
_LOW_HOPES = ["Everyone I know had told me that it was a disaster.", "The reviews were terrible, so my hopes were low.",
              "I have disliked {name} for years and expected something awful.", "It was buried by the studio and looked cheap.",
              "The trailer was dreadful and I nearly stayed at home."]  # fmt: skip

Fill = Callable[[Random], str]


def _title(rng: Random) -> str:
    return f"The {rng.choice(_TITLE_A)} {rng.choice(_TITLE_B)}"


def _setting(rng: Random) -> str:
    """One neutral sentence: where it was seen, what it is about, or who made it."""
    genre, name = rng.choice(_GENRES), rng.choice(_NAMES)
    return rng.choice([
        f"I watched {_title(rng)} {rng.choice(_WHEN)} {rng.choice(_WITH)}.",
        f"{_title(rng)} is a {genre} about a {rng.choice(_HERO)} who {rng.choice(_QUEST)}.",
        f"This {genre} from {rng.choice(_YEAR)} was directed by {name}.",
        f"{name} plays a {rng.choice(_HERO)} who {rng.choice(_QUEST)}.",
        f"I saw this {genre} {rng.choice(_WHEN)}.",
        f"The film was shot in {rng.choice(_YEAR)} and runs about {rng.choice(['80', '90', '100', '110', '130'])} minutes.",
    ])  # fmt: skip


def _judgement(rng: Random, positive: bool) -> str:
    """One sentence of praise or blame."""
    side = 0 if positive else 1
    aspect = rng.choice(list(_ASPECT))
    word, other = rng.sample(_ASPECT[aspect][side], 2)
    second = rng.choice([a for a in _ASPECT if a != aspect])
    third = rng.choice(_ASPECT[second][side])
    person = rng.choice((_GOOD_PERSON, _BAD_PERSON)[side])
    effect = rng.choice((_GOOD_EFFECT, _BAD_EFFECT)[side])
    adverb = rng.choice(_ADVERB)
    return rng.choice([
        f"The {aspect} is {adverb} {word}.",
        f"The {aspect} is {word} and {other}, and the {second} is {third}.",
        f"I found the {aspect} {adverb} {word}.",
        f"{rng.choice(_NAMES)} {person}.",
        f"With such {word} {aspect}, {effect}.",
        f"{effect[0].upper()}{effect[1:]}.",
        f"What {word} {aspect} and what {third} {second}!",
        f"{rng.choice(_NAMES)} {person}, and the {aspect} is {word}.",
        f"The {second} feels {third} from the first minute to the last.",
    ])  # fmt: skip


def _opening(rng: Random, positive: bool) -> list[str]:
    if rng.random() >= CONTRARY_OPENING:
        return [_setting(rng), _setting(rng)]
    hopes = rng.choice(_LOW_HOPES if positive else _HIGH_HOPES).format(name=rng.choice(_NAMES))
    return [_setting(rng), hopes]


def _review(rng: Random, positive: bool) -> str:
    sentences = _opening(rng, positive)
    turned = False
    for _ in range(rng.randint(3, 6)):
        if rng.random() < 0.15:
            sentences.append(_setting(rng))
            continue
        agrees = rng.random() < AGREEMENT
        sentence = _judgement(rng, positive if agrees else not positive)
        if not agrees and not turned:
            sentence, turned = f"Granted, {sentence[0].lower() if sentence.startswith('The') else sentence[0]}{sentence[1:]}", True
        sentences.append(sentence)
    if rng.random() < 0.9:
        sentences.append(rng.choice(_GOOD_VERDICT if positive else _BAD_VERDICT))
    return " ".join(sentences)


def _reviews(rng: Random, rows: int, labelled: bool) -> Reviews:
    seen: set[str] = set()
    texts: list[str] = []
    labels: list[int] = []
    while len(texts) < rows:
        positive = len(texts) % 2 == 0
        text = _review(rng, positive)
        if text in seen:
            continue
        seen.add(text)
        texts.append(text)
        labels.append(int(positive) if labelled else -1)
    return Reviews(texts, np.asarray(labels, dtype=np.int64))


class SyntheticSource:
    """Reviews from the embedded grammar; ``seed`` decides every character.

    Args:
        train_rows: number of training reviews; half of them are positive.
        test_rows: number of test reviews; half of them are positive.
        unsupervised_rows: number of reviews without a label.
        seed: the grammar's seed, independent of the seed of a run.
    """

    def __init__(self, train_rows: int = 7000, test_rows: int = 500, unsupervised_rows: int = 10000, seed: int = 0):
        self.rows = {"train": train_rows, "test": test_rows, "unsupervised": unsupervised_rows}
        self.seed = seed

    def load(self) -> Corpus:
        """Write the reviews; the unsupervised ones when they are asked for."""

        def part(name: str, labelled: bool = True) -> Reviews:
            return _reviews(Random(f"{self.seed}/{name}"), self.rows[name], labelled)

        return Corpus(part("train"), part("test"), lambda: part("unsupervised", labelled=False))
