"""The picture of the README is drawn of answers alone, and whatever they hold stays text."""

from xml.etree import ElementTree

from tests.docs.picture import OUT, drawn, first_sentence

ROWS = [("The capital of <b>", "Sydney & more", "Canberra"), ("The capital of France is", "Paris", "Paris")]


def test_what_models_say_stays_text():
    said = [node.text for node in ElementTree.fromstring(drawn(ROWS)).iter() if node.tag.endswith("text")]
    assert {"The capital of <b> …", "Sydney & more", "Canberra", "Paris"} <= set(said)


def test_a_changed_answer_is_told_from_a_kept_one():
    assert drawn(ROWS).count('class="is"') == 1 and drawn(ROWS).count('class="kept"') == 2


def test_an_answer_is_shown_up_to_its_first_stop():
    assert first_sentence("Canberra.\n\nThe Australian capital is") == "Canberra"
    assert first_sentence("a city. It lies") == "a city" and first_sentence(" \n") == "…"
    assert len(first_sentence("a very long answer that goes on and on without a stop")) < 30


def test_the_picture_in_the_repository_is_one_of_these():
    picture = OUT.read_text()
    ElementTree.fromstring(picture)
    assert 'class="is"' in picture and 'class="kept"' in picture
