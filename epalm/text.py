"""Requests to token ids, generated ids back to text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from transformers import AddedToken, PreTrainedTokenizerBase

from epalm.config import TaskConfig
from epalm.errors import EPALMError

MAX_QUESTION = 1000  # characters

# Stands in texts where they are cut before they become ids, so that what a person wrote has no control token.
CUT = "\ufdd0"  # a code point that is no character


class TaskText:
    """The text side of one adapter: its template with the LM's tokenizer.

    The original's QA adapters separate question and answer by `</a>`, a special token that the LM's
    embedding matrix has a spare, untrained row for; it takes the white space on both sides with it.
    """

    def __init__(self, task: TaskConfig, tokenizer: PreTrainedTokenizerBase):
        self.task, self.tokenizer = task, tokenizer
        if task.answer_token is not None:
            token = AddedToken(task.answer_token, lstrip=True, rstrip=True, special=True)
            tokenizer.add_special_tokens({"additional_special_tokens": [token]})
        self.end = task.end_token or tokenizer.eos_token
        self.stops = {tokenizer.eos_token_id, self._end_id()}
        if task.answer_token is not None:
            self.stops.add(tokenizer.convert_tokens_to_ids(task.answer_token))
        if task.name == "caption" and not self.ids(task.input):
            raise EPALMError(
                "The adapter's captions start from no text, but its language model's tokenizer puts no start "
                "token; give the task an input text in config.json."
            )

    def _end_id(self) -> int:
        """The id of what ends an answer; EPALMError if it is no token of the LM."""
        if self.task.end_token is None:
            return self.tokenizer.eos_token_id
        vocabulary = self.tokenizer.get_vocab()
        if self.end not in vocabulary:
            raise EPALMError(
                f"The adapter's answers end with {self.end}, which is not a token of its language model: "
                "set end_token in config.json to one that is, or to null."
            )
        return vocabulary[self.end]

    @property
    def pad_id(self) -> int:
        """What short texts are filled up with: the pad token, or the end token where there is none."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    def input(self, question: str | None) -> str:
        """The text before the answer.

        Raises:
            EPALMError: the question is missing, empty or too long, or the task takes none.
        """
        if self.task.name == "caption":
            return self.task.input
        return self.task.input.replace("{question}", self.plain(asked(question)))

    def training_text(self, question: str | None, answer: str) -> tuple[str, str]:
        """(input, output) of a training example; the output ends with the end token."""
        output = self.task.output.replace("{text}", self.plain(answer))
        return self.input(question), output + self.end

    @cached_property
    def controls(self) -> list[str]:
        """Names of the tokenizer's control tokens; asked for when all adapters have added theirs."""
        return control_tokens(self.tokenizer)

    def plain(self, text: str) -> str:
        """What a person wrote, cut within the names of control tokens: `<|endoftext|>` stays a text.

        Text that names none is returned as it is, and so gets the same ids as ever.
        """
        text = text.replace(CUT, "")
        names = "|".join(map(re.escape, self.controls))
        while names and (found := re.search(names, text)):
            text = f"{text[: found.start() + 1]}{CUT}{text[found.start() + 1 :]}"
        # Some tokenizers also recognise other spellings, such as full-width ones.
        forbidden = {self.tokenizer.convert_tokens_to_ids(name) for name in self.controls}
        forbidden.discard(self.tokenizer.unk_token_id)
        pieces = self.tokenizer(text.split(CUT), add_special_tokens=False)["input_ids"]
        return CUT.join(text.replace(CUT, "")) if any(forbidden.intersection(ids) for ids in pieces) else text

    def ids(self, text: str) -> list[int]:
        """Token ids, with the start token if the LM's tokenizer puts one."""
        first, *rest = text.split(CUT)
        ids = self.tokenizer(first)["input_ids"]
        for piece in rest:
            ids = ids + self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        return ids

    def answer(self, ids: Sequence[int]) -> str:
        """Generated ids -> text up to the end token, stripped.

        As in the original, a second answer token ends the answer, and spaces before punctuation are closed.
        """
        end = next((i for i, token in enumerate(ids) if token in self.stops), len(ids))
        text = str(self.tokenizer.decode(list(ids[:end]), skip_special_tokens=True))
        return self.tokenizer.clean_up_tokenization(text).strip()


def asked(question: str | None) -> str:
    """A question as it is asked: with single spaces.

    Raises:
        EPALMError: it is missing, empty or too long.
    """
    question = " ".join((question or "").split())
    if not question:
        raise EPALMError("The question is empty; type what you want to know, such as 'what is this?'.")
    if len(question) > MAX_QUESTION:
        raise EPALMError(
            f"The question has {len(question)} characters; please ask in at most {MAX_QUESTION}."
        )
    return question


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Names of the tokens that are no text: special ones, and added ones that look like `<tool_call>`.

    Added tokens may also be words or white space. The longest name comes first.
    """
    names = {*tokenizer.all_special_tokens}
    for token in tokenizer.added_tokens_decoder.values():
        name = token.content.strip()
        if token.special or (len(name) > 2 and name[0] + name[-1] in ("<>", "[]")):
            names.add(token.content)
    return sorted((name for name in names if len(name) > 1), key=lambda name: (-len(name), name))


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Id lists -> (B, T) ids padded on the left, so that all answers begin in one column, and mask."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
