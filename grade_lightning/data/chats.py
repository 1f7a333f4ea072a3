"""Chats: lists of messages with a role and a content, as data sets hold them and as a tokenizer's template writes them."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]
Content = str | list[Message]  # a text, or a chat


def fault_of_text(text: str) -> str | None:
    """What is wrong with a text, in words that follow "the column"; None = nothing."""
    if not text.strip():
        return "holds no prompt"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no character"
    return None


def fault_of_chat(messages: list[Any]) -> str | None:
    """The same of a chat."""
    if not messages:
        return "holds a chat without messages"
    for number, message in enumerate(messages, 1):
        if not (isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)):
            return f'holds a chat whose message {number} is not of the form {{"role": "user", "content": "a text"}}'
        fault = fault_of_text(message["role"] + message["content"])
        if fault is not None:
            return fault
    return None


def without_nulls(messages: list[Message]) -> list[Message]:
    """Parquet gives every message the keys of all messages."""
    return [{name: value for name, value in message.items() if value is not None} for message in messages]


def written(messages: list[Message], tokenizer: PreTrainedTokenizerBase, place: str, *, begin_answer: bool) -> str:
    """What the tokenizer's template writes of a chat, special tokens included.

    Args:
        messages: in order.
        tokenizer: with a chat template.
        place: where the chat stands, for messages to the user.
        begin_answer: up to where the assistant's answer begins.

    Raises:
        ValueError: the template refuses the chat.
    """
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=begin_answer))
    except (TemplateError, TypeError) as error:
        raise ValueError(f"{place}: the chat template of the model refuses these messages ({error}): correct them") from error
