"""From Python values to overrides: what Hydra reads back is what was given."""

import functools
import json

import numpy as np
import pandas
import pytest

from grade_lightning.api.overrides import flat, of_fields, of_model, of_prompts, of_reward, rows_of, text_of
from grade_lightning.compose import composed
from grade_lightning.given import fingerprint_of_given, give, given, module_and_name

NASTY = [
    "plain",
    "a b",
    "it's",
    'say "so"',
    "back\\slash",
    "ends\\",
    "\\'",
    "${seed}",
    "a,b=c:{d}[e]",
    "ünï",
    "true",
    "1e-3",
    "null",
    " lead",
    "#",
]


@pytest.mark.parametrize("text", NASTY)
def test_texts_come_back_as_they_were(text):
    cfg = composed(["data=parquet", f"data.path={text_of(text)}", "run.dir=x"])
    assert cfg._get_node("data")._get_node("path")._value() == text


@pytest.mark.parametrize("value", [1, -2.5, 1e-7, True, False, None, [0.9, 0.95], [], ["a", "b c"]])
def test_other_values_come_back_as_they_were(value):
    cfg = composed([f"optimizer.betas={text_of(value)}", "run.dir=x"])
    assert cfg.optimizer.betas == value


def test_what_no_setting_holds_is_refused():
    with pytest.raises(ValueError, match="set"):
        text_of({1, 2})


def test_nested_fields_and_double_underscores_are_the_same_keys():
    assert dict(flat({"optimizer": {"lr": 1}, "data__prompt": {"max_tokens": 2}})) == {"optimizer.lr": 1, "data.prompt.max_tokens": 2}


def test_an_option_of_a_group_comes_before_what_changes_it():
    found = of_fields({"temperature__value": 2.0, "temperature": "constant", "kl_coef": 0.0})
    assert found.index("temperature=constant") < found.index("temperature.value=2.0")
    assert composed([*found, "run.dir=x"]).temperature["value"] == 2.0


def test_models_by_name_folder_and_hub_id(tmp_path):
    assert of_model("tiny") == ["model=tiny"]
    assert of_model(tmp_path) == ["model=local", f"model.path={tmp_path}"]
    assert of_model("org/name") == ["model=local", "model.path=org/name"]


def test_rewards_by_whatever_they_are(tmp_path):
    def inside(completions):
        return completions

    assert of_reward(None) == []
    assert of_reward("sequence_classifier") == ["reward=sequence_classifier"]
    assert of_reward("my_rewards:brackets") == ["reward=function", "reward.function=my_rewards:brackets"]
    assert of_reward(tmp_path) == ["reward=sequence_classifier", f"reward.path={tmp_path}"]
    assert of_reward("org/classifier") == ["reward=sequence_classifier", "reward.path=org/classifier"]
    assert of_reward(json.dumps) == ["reward=function", "reward.function=json:dumps"]
    name = of_reward(inside)[1].removeprefix("reward.name=").strip("'")
    assert given(name) is inside
    for wrong in (3, "nothing_of_that_name"):
        with pytest.raises(ValueError, match=r"reward="):
            of_reward(wrong)


class Judge:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, completions, **_):
        return [self.scale for _ in completions]

    def rate(self, completions, **_):
        return [self.scale for _ in completions]


def test_state_is_part_of_what_was_given():
    """Closures, partials, instances and bound methods of other values are other rewards; those of equal values the same."""
    kinds = {
        "partial": lambda k: functools.partial(scaled, k=k), "instance": Judge, "method": lambda k: Judge(k).rate,
        "closure": lambda k: lambda completions: [k for _ in completions],
    }  # fmt: skip
    for name, make in kinds.items():
        assert give(make(1)) != give(make(2)), name
        if name != "method" and name != "instance":
            assert give(make(1)) == give(make(1)), name
        assert fingerprint_of_given(give(make(1))) != fingerprint_of_given(give(make(2))), name


def scaled(completions, k, **_):
    return [k for _ in completions]


@functools.lru_cache
def decorated(completions):
    return completions


def test_a_function_that_its_name_does_not_give_back_is_kept_itself():
    assert module_and_name(scaled) == "tests.api.test_overrides:scaled"
    assert module_and_name(functools.wraps(scaled)(lambda completions: [9.0])) is None
    assert module_and_name(Judge(1).rate) is None
    assert of_reward(decorated)[0] == "reward=function"  # the name gives this very object


def test_classes_and_halves_of_rewards_are_refused():
    class Half:
        def score(self, completions):
            return completions

    with pytest.raises(ValueError, match="an instance"):
        of_reward(Half)
    with pytest.raises(ValueError, match="has no differentiable"):
        of_reward(Half())


def test_numbers_of_numpy_are_numbers():
    assert text_of(np.float64(1e-3)) == text_of(np.float32(0.5)).replace("0.5", "0.001") == "0.001"
    assert text_of(np.int64(3)) == "3"


def test_containers_are_no_prompts():
    with pytest.raises(ValueError, match="choose one of them"):
        rows_of({"train": [], "test": []})
    assert rows_of(pandas.DataFrame({"prompt": ["a", "b", "c"], "n": [1, 2, 3]}))[1] == {"prompt": "b", "n": 2}


def test_judges_and_callbacks_are_added():
    found = of_fields({"reward@evaluation.judges.gold": "classifier_head", "evaluation": {"judges": {"gold": {"scope": "completion"}}}})
    assert composed([*found, "run.dir=x"]).evaluation.judges.gold.scope == "completion"


def test_only_what_another_process_can_import_is_named_by_its_module():
    assert module_and_name(json.dumps) == "json:dumps"
    assert module_and_name(lambda: None) is None


def test_prompts_are_kept_in_the_run_folder_and_never_overwritten(tmp_path):
    texts = [f"prompt {n}" for n in range(30)]
    found = of_prompts(texts, tmp_path, {})
    assert [json.loads(line)["prompt"] for line in (tmp_path / "prompts.jsonl").read_text().splitlines()] == texts
    assert {"data.validation_rows=3", "data.test_rows=6"} < set(found)
    assert "data.test_rows=6" not in of_prompts(texts, tmp_path, {"data": {"test_rows": 2}})
    of_prompts(texts, tmp_path, {})  # no run yet: nothing is lost
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ValueError, match="other prompts"):
        of_prompts(texts[1:], tmp_path, {})
    assert len((tmp_path / "prompts.jsonl").read_text().splitlines()) == 30


def test_prompts_of_every_form():
    chat = [{"role": "user", "content": "hello"}]
    assert rows_of(["a", "b", "c"]) == [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}]
    assert rows_of([chat] * 3)[0] == {"prompt": chat}
    assert rows_of({"prompt": "a", "answer": n} for n in range(3))[2] == {"prompt": "a", "answer": 2}
    with pytest.raises(ValueError, match="too few"):
        rows_of(["a", "b"])
    with pytest.raises(ValueError, match=r"prompts\[1\] is a int"):
        rows_of(["a", 1, "c"])


def test_a_column_that_json_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="leave it out"):
        of_prompts([{"prompt": "a", "image": object()}] * 3, tmp_path, {})
