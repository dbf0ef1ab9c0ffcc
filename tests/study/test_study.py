"""The study file: unknown keys name the nearest, wrong values their key, and the text is canonical."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.errors import StudyError
from primum.federation.template import study_template
from primum.keys.identity import Identity, verify
from primum.study import PURPOSE, Study, Training, parse_settings, sign_study

MEMBERS = [f"{place:064x}" for place in (3, 1, 2)]
TEXT = study_template(MEMBERS)
KEYS = [
    (section, key)
    for section, fields in Study.parse(TEXT, "template").model_dump(mode="json", exclude_none=True).items()
    for key in fields
]


def parse(text: str) -> Study:
    return Study.parse(text, "my study.toml")


def add(section: str, line: str) -> str:
    return TEXT.replace(f"[{section}]\n", f"[{section}]\n{line}\n", 1)


def test_the_template_is_a_study_and_its_defaults_are_those_of_the_code() -> None:
    study = parse(TEXT)
    assert study.training == Training()
    assert study.privacy is not None
    assert study.privacy.epsilon == 3.0


def test_the_template_of_masks_is_a_study_too() -> None:
    study = parse(study_template(MEMBERS, task="segmentation"))
    assert (study.study.task, study.model.kind) == ("segmentation", "pixel-linear")
    assert study.training.clipping == "automatic"


def test_channels_are_those_of_a_slice_and_its_neighbours() -> None:
    assert parse(add("images", "context = 1").replace("channels = 1 ", "channels = 3 ")).images.context == 1
    for line, channels in (("context = 1", 1), ("context = 0", 2)):
        with pytest.raises(StudyError, match="channels"):
            parse(add("images", line).replace("channels = 1 ", f"channels = {channels} "))


def test_the_canonical_text_comes_back_and_does_not_depend_on_the_order_of_members() -> None:
    study = parse(TEXT)
    assert parse(study.text()) == study
    assert parse(study.text()).text() == study.text()
    assert parse(study_template(sorted(MEMBERS))).text() == study.text()


@given(st.sampled_from(KEYS), st.data())
def test_any_misspelt_key_is_refused_and_the_nearest_named(key: tuple[str, str], data: st.DataObject) -> None:
    section, name = key
    known = [other for place, other in KEYS if place == section]
    place = data.draw(st.integers(0, len(name) - 1))
    letter = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_"))
    misspelt = data.draw(
        st.sampled_from([name[:place] + name[place + 1 :], name[:place] + letter + name[place:], name + letter])
    )
    if not misspelt or misspelt in known:
        return
    with pytest.raises(StudyError) as caught:
        parse(add(section, f"{misspelt} = 1"))
    assert caught.value.message == f"my study.toml: unknown key {section}.{misspelt}."
    if len(name) > 3:
        assert f"{section}." in caught.value.hint


@pytest.mark.parametrize(
    ("section", "misspelt", "nearest"),
    [
        ("training", "learning_rat", "training.learning_rate"),
        ("training", "round", "training.rounds"),
        ("privacy", "epsillon", "privacy.epsilon"),
        ("privacy", "noise", "privacy.noise_multiplier"),
        ("hospitals", "member", "hospitals.members"),
    ],
)
def test_unknown_keys_name_the_nearest(section: str, misspelt: str, nearest: str) -> None:
    with pytest.raises(StudyError, match=f"unknown key {section}.{misspelt}") as caught:
        parse(add(section, f"{misspelt} = 1"))
    assert caught.value.hint == f"Did you mean {nearest}?"


def test_an_unknown_section_names_the_nearest() -> None:
    with pytest.raises(StudyError, match="unknown key privacyy") as caught:
        parse(TEXT + "\n[privacyy]\nepsilon = 1\n")
    assert caught.value.hint == "Did you mean privacy?"


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(StudyError) as caught:
        parse(add("model", "kinnd = 1").replace("size = 64", 'size = "large"').replace("patients = 379", ""))
    message = caught.value.message
    assert message.startswith("my study.toml: ") and " Also: " in message
    assert all(words in message for words in ("unknown key model.kinnd", "images.size", "privacy.patients is missing"))
    assert message.count("my study.toml") == 1 and caught.value.hint


def test_every_misspelt_key_has_its_nearest_and_a_wrong_item_speaks_for_its_list() -> None:
    with pytest.raises(StudyError) as caught:
        parse(add("model", "kinnd = 1").replace("size = 64", "sise = 64") + '\n[evaluation]\nmeasures = ["dise"]\n')
    message = f"{caught.value.message} {caught.value.hint}"
    assert "model.kind?" in message and "images.size?" in message.replace("(did", "Did")
    assert "evaluation.measures.0: must be 'dice'" in message and "lists 0" not in message


def test_all_that_does_not_go_together_is_told_at_once() -> None:
    patches = re.sub('fit = "[a-z]+"', 'fit = "patches"', add("images", "context = 1"))
    with pytest.raises(StudyError) as caught:
        parse(re.sub('labels = "[a-z]+"', 'labels = "ordered"', patches))
    told = caught.value.message
    for words in (
        "needs 3 classes or more",
        'task = "classification"',
        "images.spacing is missing",
        "no images.context",
    ):
        assert words in told, words
    assert "a slice and its neighbours" not in told, "patches have no channels to choose"


def test_a_key_like_no_other_lists_those_known() -> None:
    with pytest.raises(StudyError) as caught:
        parse(add("model", "xqzw = 1"))
    assert caught.value.hint == "Known here: kind, scales, angles."


@pytest.mark.parametrize(
    ("patients", "delta", "fits"), [(379, 2.6e-5, True), (379, 2.7e-5, False), (4708, 1e-5, False), (150, 1e-4, False)]
)
def test_delta_too_large_is_refused(patients: int, delta: float, fits: bool) -> None:
    text = TEXT.replace("delta = 1e-5", f"delta = {delta}").replace("patients = 379", f"patients = {patients}")
    if fits:
        parse(text)
        return
    with pytest.raises(
        StudyError, match=rf"delta = {delta:g} is too large for {patients} patients.*1/\(100 N\)"
    ) as error:
        parse(text)
    advised = str(error.value).split("1/(100 N) = ")[1].split(",")[0]
    parse(text.replace(f"delta = {delta}", f"delta = {advised}"))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("epsilon = 3.0", "epsilon = 0", "privacy.epsilon"),
        ("epsilon = 3.0", "epsilon = nan", "privacy.epsilon"),
        ("epsilon = 3.0", "epsilon = inf", "privacy.epsilon"),
        ("epsilon = 3.0", "", "privacy.epsilon|"),
        ("sampling = 0.5", "sampling = 1.5", "training.sampling"),
        ("sampling = 0.5", "sampling = 0.0", "training.sampling"),
        ("rounds = 40", "rounds = 0", "training.rounds"),
        ("patients = 379", "patients = 2", "privacy.patients"),
        ("patients = 379", "", "privacy.patients is missing"),
        ('unit = "patient"', 'unit = "slice"', "privacy.unit"),
        ("size = 64", 'size = "large"', "images.size"),
        ('classes = ["NORMAL", "PNEUMONIA"]', 'classes = ["A", "A"]', "distinct"),
        ('classes = ["NORMAL", "PNEUMONIA"]', 'classes = ["A"]', "study.classes"),
        (MEMBERS[0], "abc", "not an identity"),
        (MEMBERS[0], MEMBERS[1], "named twice"),
        ('name = "pneumonia"', 'name = "../x"', "study.name"),
    ],
)
def test_a_wrong_value_names_its_key(old: str, new: str, named: str) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new, 1)
    if named.endswith("|"):
        assert parse(text).privacy == parse(TEXT).privacy  # a default
        return
    with pytest.raises(StudyError, match=named) as caught:
        parse(text)
    assert caught.value.message.startswith("my study.toml: ")


LOCAL = "local_steps = 5\nlocal_learning_rate = 0.5"


def changed(training: str = "", aggregation: str = "", private: bool = True) -> str:
    """The template with other lines for local steps and for the aggregation."""
    text = TEXT.replace("local_steps = 1 ", f"{training}  #") if training else TEXT
    text = text.replace('weighting = "equal"', aggregation) if aggregation else text
    if not private:
        start, end = text.index("[privacy]"), text.index("[hospitals]")
        text = text[:start] + text[end:]
    return text


@pytest.mark.parametrize(
    ("training", "aggregation", "private"),
    [
        ("", "", True),
        ("", "", False),
        (LOCAL, "", True),
        (LOCAL + "\nproximal = 0.1", "", True),
        (LOCAL, 'weighting = "images"', False),
        ("", "bits = 8", True),
        ("", "bits = 32", True),
    ],
)
def test_settings_that_go_together_are_a_study_and_come_back(training: str, aggregation: str, private: bool) -> None:
    study = parse(changed(training, aggregation, private))
    assert parse(study.text()) == study


@pytest.mark.parametrize(
    ("training", "aggregation", "private", "named"),
    [
        ("local_steps = 5", "", True, r"training\.local_learning_rate is missing: with local_steps = 5"),
        (
            "local_learning_rate = 0.5",
            "",
            True,
            r"training\.local_learning_rate = 0\.5 does nothing with local_steps = 1",
        ),
        ("proximal = 0.1", "", True, r"training\.proximal = 0\.1 does nothing with local_steps = 1"),
        (LOCAL + "\nproximal = 3.0", "", True, r"training\.proximal = 3 times local_learning_rate = 0\.5 is above 1"),
        (LOCAL + "\nproximal = -0.1", "", True, r"training\.proximal: must be at least 0"),
        ("local_steps = 0", "", True, r"training\.local_steps: must be at least 1"),
        ("local_steps = 1001", "", True, r"training\.local_steps: must be at most 1000"),
        ("local_steps = 5\nlocal_learning_rate = 0.0", "", True, r"training\.local_learning_rate: must be above 0"),
        (LOCAL, 'weighting = "images"', True, r'aggregation\.weighting = "images" does not go with \[privacy\]'),
        (
            "",
            'weighting = "images"',
            False,
            r'aggregation\.weighting = "images" does nothing with training\.local_steps',
        ),
        ("", 'weighting = "patients"', False, r"aggregation\.weighting: .*'equal' or 'images'"),
        ("", "bits = 10", False, r"aggregation\.bits = 10 goes with \[privacy\] only"),
        (LOCAL, "bits = 10", True, r"aggregation\.bits = 10 does not go with training\.local_steps = 5"),
        ("", "bits = 7", True, r"aggregation\.bits: must be at least 8"),
        ("", "bits = 33", True, r"aggregation\.bits: must be at most 32"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name(
    training: str, aggregation: str, private: bool, named: str
) -> None:
    with pytest.raises(StudyError, match=named):
        parse(changed(training, aggregation, private))


def test_broken_toml_names_the_line() -> None:
    with pytest.raises(StudyError, match=r"my study\.toml is not valid TOML.*line 2"):
        parse("[study]\nname = \n")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="No such file"):
        Study.read(tmp_path / "nothing.toml")
    binary = tmp_path / "study.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyError, match="not a text file"):
        Study.read(binary)


def test_a_signed_study_is_its_canonical_text() -> None:
    asker = Identity.generate()
    signed = sign_study(parse(TEXT), asker)
    verify(signed.asker, PURPOSE, signed.text.encode(), signed.signature, "the scientist")
    assert Study.parse(signed.text, "the study") == parse(TEXT)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ('task = "segmentation"\nlabels = "several"\nclasses = ["a", "b"]', "each pixel has one class"),
        ('labels = "ordered"\nclasses = ["a", "b"]', "needs 3 classes or more, there are 2"),
        ('labels = "several"\nclasses = ["a", "b|c"]', "which stands between names"),
        ('labels = "many"\nclasses = ["a", "b"]', "study.labels: must be 'one', 'several' or 'ordered'"),
    ],
)
def test_labels_that_do_not_go_with_the_rest_are_named(about: str, message: str) -> None:
    masks = '[model]\nkind = "pixel-linear"\n' if "segmentation" in about else ""
    text = f'[study]\nname = "x"\npurpose = "y"\n{about}\n{masks}[hospitals]\n'
    with pytest.raises(StudyError) as refused:
        Study.parse(text, "study.toml")
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("study.classes", ["a"], "lists 1, and at least 2 are needed"),
        ("study.classes", "a", 'must be a list, as ["one", "another"]'),
        ("evaluation.at_specificity", 0.9, "must be a list, as [0.9]"),
        ("study.classes", [f"{one}" for one in range(101)], "lists more than 100"),
        ("study.name", "a b", "must be text like ^[A-Za-z0-9]"),
        ("study.purpose", "", "must not be empty"),
        ("study.expires", "tomorrow", "must be a date, as 2030-12-31"),
        ("images", 3, "must be a section, [images]"),
        ("images.size", 8, "must be at least 16"),
        ("images.size", 16.5, "must be a whole number"),
        ("training.sampling", 0, "must be above 0."),
        ("training.momentum", 1.0, "must be below 1."),
        ("training.learning_rate", "much", "must be a number"),
    ],
)
def test_a_wrong_value_is_told_in_the_words_of_a_study(key: str, value: object, message: str) -> None:
    sections: dict[str, Any] = {"study": {"name": "x", "purpose": "y", "classes": ["a", "b"]}, "hospitals": {}}
    section, _, name = key.partition(".")
    sections[section] = {**sections.get(section, {}), name: value} if name else value
    with pytest.raises(StudyError) as refused:
        parse_settings(Study, sections, "study.toml")
    assert refused.value.message.startswith(f"study.toml: {key}: {message}")


def windows(masks: str, **changes: str) -> str:
    text = masks.replace('fit = "squash"', 'fit = "windows"')
    for old, new in changes.items():
        text = text.replace({"kind": 'kind = "pixel-linear"', "unit": 'unit = "patient"'}[old], new)
    return text


def test_windows_go_with_masks_and_models_that_need_no_place() -> None:
    masks = study_template(MEMBERS, task="segmentation")
    lines = masks.splitlines()
    model = [
        line for line in lines[lines.index("[model]") : lines.index("[training]")] if "=" in line and "kind" not in line
    ]
    network = masks
    for line in model:
        network = network.replace(f"{line}\n", "")
    network = network.replace('kind = "pixel-linear"', 'kind = "u-net"')
    assert parse(windows(network)).images.fit == "windows"
    for text, said in (
        (windows(masks), 'model.kind = "pixel-linear", .*: take u-net, mo-net, seg-resnet'),
        (windows(TEXT), 'task = "classification", .*: take squash, crop or pad'),
        (windows(network, unit='unit = "image"'), 'privacy.unit = "image": .* take "patient"'),
    ):
        with pytest.raises(StudyError, match=f'images.fit = "windows" does not go with {said}'):
            parse(text)
