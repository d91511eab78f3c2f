"""Which spellings are one name, and which texts hold several."""

import unicodedata

import pytest

from wsss_lib.data.names import composed, key, listed, parts, positions, shown

KNOWN = positions(["cat", "Dog", "wine glass", "glass"])


@pytest.mark.parametrize("other", ["Cat", " cat\n", "CAT", "ca\u200bt", "ｃａｔ"])
def test_spellings_of_one_name(other):
    assert key(other) == key("cat")


def test_unicode_forms_of_one_name():
    forms = [unicodedata.normalize(form, "Rüsselkäfer") for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    assert len({key(form) for form in forms}) == len({composed(form) for form in forms}) == 1
    assert shown(*forms) != shown(*reversed(forms)), "they would look the same in a message"


@pytest.mark.parametrize("other", ["cats", "c at", "bat", "a cat"])
def test_other_names(other):
    assert key(other) != key("cat")


@pytest.mark.parametrize("text", ["cat,dog", "cat|dog", "cat/dog", "cat dog", "Cat & DOG", "cat and dog", "cat\ndog"])
def test_several_names_in_one_text(text):
    assert [part.lower() for part in parts(text, KNOWN)] == ["cat", "dog"]


@pytest.mark.parametrize("text", ["cat", "wine glass", "cat/bird", "cat.v2", "", ",", "sand"])
def test_a_text_that_is_one_name_or_none(text):
    assert parts(text, KNOWN) == []


def test_lists_of_names():
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed(["a", "b", "c"], most=1) == "'a' and 2 more"
