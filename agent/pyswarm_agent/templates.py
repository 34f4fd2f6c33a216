"""Texts with placeholders in Go's way (`{{.Task.Slot}}`): found and filled in, whoever wrote the text. Pure.

Whatever is in a text, this takes time in proportion to its length, and what becomes of it has a limit: the texts come from users,
and a node's daemon must stay well.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pyswarm_common.errors import InvalidArgument

LONGEST_ACTION = 1000


class TemplatePiece(NamedTuple):
    """A piece of a template: text, or what stands between `{{` and `}}`; and where it begins."""

    text: str
    position: int
    is_action: bool = False


def fill_template(text: str, value_of: Callable[[TemplatePiece], str], what: str, *, longest: int) -> str:
    """Return `text` with `value_of` each action in its place.

    `what` names the text in errors. Raises InvalidArgument for an action that is too long or not closed, or when the result would
    have more than `longest` characters; and what `value_of` raises.
    """
    found: list[str] = []
    length = 0
    for piece in template_pieces(text):
        if piece.is_action and len(piece.text) > LONGEST_ACTION:
            raise InvalidArgument(
                f"expanding {what} failed: a placeholder is longer than {LONGEST_ACTION} characters, or not closed"
            )
        found.append(value_of(piece) if piece.is_action else piece.text)
        length += len(found[-1])
        if length > longest:
            raise InvalidArgument(f"expanding {what} failed: it becomes longer than {longest} characters; use fewer placeholders")
    return "".join(found)


def template_pieces(text: str) -> Iterator[TemplatePiece]:
    """Yield the pieces of a template; comments are left out, and so is white space where `{{- ` or ` -}}` says so.

    An action that is not closed reaches to the end.
    """
    position, trims = 0, False
    last_comment_end = text.rfind("*/")
    while position < len(text):
        begin = text.find("{{", position)
        literal = text[position : begin if begin >= 0 else None]
        literal = literal.lstrip() if trims else literal
        if begin < 0:
            yield TemplatePiece(literal, position)
            return
        is_trimmed_before = text[begin + 2 : begin + 3] == "-" and text[begin + 3 : begin + 4].isspace()
        yield TemplatePiece(literal.rstrip() if is_trimmed_before else literal, position)
        inner = begin + (4 if is_trimmed_before else 2)
        is_comment = text.startswith("/*", inner)
        # Looking for an end that there is none of would read the rest of the text for each comment.
        closing = text.find("*/", inner) if is_comment and inner <= last_comment_end else inner
        end = text.find("}}", closing)
        end = end if end >= 0 else len(text)
        trims = text[end - 1 : end] == "-" and text[end - 2 : end - 1].isspace()
        if not is_comment:
            yield TemplatePiece(text[inner : end - 1 if trims else end].strip(), begin, is_action=True)
        position = end + 2
