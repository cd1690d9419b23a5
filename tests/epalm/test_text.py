"""Templates and answers, compared with what the original's tokenizer recorded."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from epalm.config import TaskConfig
from epalm.errors import EPALMError
from epalm.text import MAX_QUESTION, TaskText, pad_left

TOY = Path(__file__).parents[1] / "golden" / "toy_tokenizer"
GOLDEN = json.loads((TOY / "golden.json").read_text())
QA = TaskConfig("qa", "image", "{question}?</a>", answer_token="</a>")
CAPTION = TaskConfig("caption", "image", "")


@pytest.fixture
def qa():
    return TaskText(QA, AutoTokenizer.from_pretrained(TOY))


@pytest.fixture
def caption():
    return TaskText(CAPTION, AutoTokenizer.from_pretrained(TOY))


def test_a_caption_starts_from_the_start_token_alone(caption):
    assert caption.ids(caption.input(None)) == GOLDEN["caption"][0]["input_ids"][0] == [2]


@pytest.mark.parametrize("case", GOLDEN["caption"][2:])
def test_caption_training_texts_tokenise_as_recorded(caption, case):
    for text, ids, mask in zip(case["text"], case["input_ids"], case["attention_mask"], strict=True):
        assert caption.ids(text) == ids[: sum(mask)]


def test_the_answer_token_is_the_first_id_after_the_vocabulary(qa):
    assert qa.tokenizer.convert_tokens_to_ids("</a>") == GOLDEN["answer_token_id"] == 338


@pytest.mark.parametrize("case", GOLDEN["vqa"])
def test_question_and_answer_tokenise_as_recorded(qa, case):
    question = case["train_text"].split("?</a>")[0]
    assert qa.ids(case["train_text"]) == case["input_ids"]
    assert qa.ids(f"{question}?</a>") == case["gen_prompt_ids"]


def test_a_question_that_ends_in_a_question_mark_gets_a_second_one_as_in_training(qa):
    assert qa.input("  what color\n is it? ") == "what color is it??</a>"


@pytest.mark.parametrize("case", GOLDEN["decode"])
def test_answers_are_read_as_recorded(qa, caption, case):
    if case.get("caption"):
        new = case["ids"][1:]
        assert caption.answer(new) == case["response"].strip()
    else:
        new = case["ids"][case["ids"].index(338) + 1 :]
        assert qa.answer(new) == case["response"].strip()


def test_a_second_answer_token_ends_the_answer(qa):
    assert qa.answer([292, 338, 285, 2]) == "red"


def test_ids_without_a_string_do_not_break_decoding(qa):
    assert qa.answer([292, 400]) == "red"


def test_training_text_puts_the_end_token_after_the_answer(caption):
    assert caption.training_text(None, "a dog") == ("", "a dog</s>")


def test_an_adapter_may_end_its_answers_with_another_token():
    tokenizer = AutoTokenizer.from_pretrained(TOY)
    other = tokenizer.pad_token  # any token that the vocabulary has
    text = TaskText(TaskConfig("caption", "image", "", end_token=other), tokenizer)
    assert text.training_text(None, "a dog")[1].endswith(other)
    first, end = text.ids("a dog"), tokenizer.convert_tokens_to_ids(other)
    assert text.answer([*first[1:], end, *first[1:]]) == text.answer(first[1:])
    assert tokenizer.eos_token_id in text.stops  # the LM's own still ends it


def test_an_end_token_that_the_language_model_does_not_have_is_refused():
    tokenizer = AutoTokenizer.from_pretrained(TOY)
    with pytest.raises(EPALMError, match="end with <end>, which is not a token.*end_token in config.json"):
        TaskText(TaskConfig("caption", "image", "a", end_token="<end>"), tokenizer)


@pytest.mark.parametrize("name", ["</s>", "<pad>", "</a>", "<tool_call>", "[END]"])
def test_control_tokens_in_what_a_person_wrote_are_text(qa, name):
    qa.tokenizer.add_tokens(["<tool_call>", "[END]"])  # as some tokenizers have them: not marked as special
    control = qa.tokenizer.convert_tokens_to_ids(name)
    ids = qa.ids(qa.input(f"what is {name} here"))
    assert control not in ids[1:-1] and ids[-1] == 338  # the template's own answer token stays one
    assert qa.tokenizer.decode(ids[1:-1]).replace(" ", "") == f"whatis{name}here?"
    before, after = qa.training_text("what?", f"a {name}{name} dog")
    assert control not in qa.ids(after)[1:-1] and qa.ids(after)[-1] == 2
    assert qa.ids(before + after) == qa.ids(before) + qa.ids(after)[1:]


def test_added_words_and_white_space_are_no_control_tokens(qa):
    qa.tokenizer.add_tokens(["sofa", "    "])
    assert qa.controls == [name for name in qa.controls if name not in ("sofa", "    ")]
    assert qa.plain("a red sofa") == "a red sofa"


@pytest.mark.parametrize("question", [None, "", "  \n "])
def test_an_empty_question_is_refused(qa, question):
    with pytest.raises(EPALMError, match="question is empty"):
        qa.input(question)


def test_a_very_long_question_is_refused_with_its_length(qa):
    with pytest.raises(EPALMError, match=f"10000 characters.*{MAX_QUESTION}"):
        qa.input("x" * 10000)


def test_padding_stands_on_the_left():
    ids, mask = pad_left([[5, 6, 7], [8]], pad_id=1)
    assert ids.tolist() == [[5, 6, 7], [1, 1, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
