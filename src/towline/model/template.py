"""What a chat template asks for: enough of Go's `text/template` to say which names it uses, and whether it is one.

The grammar is that of Go's `text/template/parse`: text, and between `{{` and `}}` pipelines and the blocks `if`,
`range`, `with`, `define` and `block`. A name in a string, in a comment or in the text is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

# Go's own, and those that Ollama adds (its template/template.go).
_FUNCTIONS: Final = frozenset(
    """and call eq ge gt html index js le len lt ne not or print printf println slice urlquery
    currentDate json toTypeScriptType yesterdayDate""".split()  # noqa: SIM905  a list of words
)
_CONSTANTS: Final = ("true", "false", "nil")
_KEYWORDS: Final = frozenset(("block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"))

_ESCAPE: Final = r"\\(?:[abfnrtv\\%s]|[0-7]{3}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})"
_NUMBER: Final = r"""[+-]?
    (?: 0[xX][0-9a-fA-F_]+ | 0[bB][01_]+ | 0[oO][0-7_]+
      | (?: [0-9][0-9_]*(?:\.[0-9_]*)? | \.[0-9][0-9_]* )(?:[eE][+-]?[0-9_]+)? ) i? (?!\w)"""
_TOKEN: Final = re.compile(
    rf"""
      (?P<close> [ \t\r\n]+-\}}\}} | \}}\}} )
    | (?P<space> [ \t\r\n]+ )
    | (?P<literal> "(?: [^"\\\n] | {_ESCAPE % '"'} )*" | `[^`]*` | '(?: [^'\\\n] | {_ESCAPE % "'"} )'
      | {_NUMBER} )
    | (?: (?P<field> \.(?![0-9])\w+ ) | (?P<variable> \$\w* ) | (?P<word> (?![0-9])\w+ ) )
        (?= [ \t\r\n.,|:)(] | \}}\}} | \Z )
    | (?P<mark> \.(?!\w) | := | [=|(),] )
    """,
    re.VERBOSE,
)
_SPACE: Final = " \t\r\n"


class BrokenTemplate(ValueError):
    """The text is no template: an Ollama does not list a model that has it."""


@dataclass(frozen=True, slots=True)
class Template:
    """What a template uses: `names` are its fields and variables in lower case, which is how Ollama compares them.

    `thinks`: within a `range` over `.Messages`, `.Thinking` stands between two texts, the tags of thoughts. It is the
    sign that Ollama goes by (`InferTags` in its thinking/template.go).
    """

    names: frozenset[str]
    thinks: bool

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises BrokenTemplate, and nothing else, for what Go's parser or Ollama refuses."""
        parser = _Parser(list(_tokens(text)))
        try:
            nodes = parser.root()
            opening = closing = ""
            for first, last in _around_thinking(nodes, in_messages=False):
                opening = first.strip() if isinstance(first, str) else opening
                closing = last.strip() if isinstance(last, str) else closing
        except RecursionError:
            raise BrokenTemplate("the template nests too deeply") from None
        return cls(frozenset(parser.names), bool(opening and closing))


@dataclass(slots=True)
class _Pipe:
    """A pipeline: every part of its fields and variables, and the first part of each field."""

    names: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Action:
    """What stands between braces, with the lists of nodes where it is a block."""

    keyword: str
    pipe: _Pipe = field(default_factory=_Pipe)
    lists: tuple[_Nodes, ...] = ()


_Nodes: TypeAlias = "list[str | _Action]"


def _around_thinking(nodes: _Nodes, *, in_messages: bool) -> Iterator[tuple[str | _Action, str | _Action]]:
    """The first and the last node of each list in which `.Thinking` stands, within a range over `.Messages`."""
    for node in nodes:
        if isinstance(node, str):
            continue
        inside = "Messages" in node.pipe.fields if node.keyword == "range" else in_messages
        if inside and "Thinking" in node.pipe.fields:
            yield nodes[0], nodes[-1]
        for inner in node.lists:
            yield from _around_thinking(inner, in_messages=inside)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str = ""


_EOF: Final = _Token("eof")


def _tokens(text: str) -> Iterator[_Token]:
    """Pieces of `text`, and the tokens of each action between its `open` and its `close`; comments are left out."""
    at, trims = 0, False
    while True:
        start = text.find("{{", at)
        cuts = start >= 0 and text[start + 2 : start + 3] == "-" and text[start + 3 : start + 4] in tuple(_SPACE)
        piece = text[at:] if start < 0 else text[at:start]
        piece = piece.lstrip(_SPACE) if trims else piece
        if piece := piece.rstrip(_SPACE) if cuts else piece:
            yield _Token("text", piece)
        if start < 0:
            return
        at = start + (4 if cuts else 2)
        if text.startswith("/*", at):
            at, trims = _comment(text, at)
            continue
        yield _Token("open")
        kind = ""
        while kind != "close":
            found = _TOKEN.match(text, at)
            if not found:
                raise BrokenTemplate(f"the template has an action that cannot be read: {text[at : at + 20]!a}")
            kind, at = str(found.lastgroup), found.end()
            yield _Token(found[0] if kind == "mark" else kind, found[0])
        trims = text[at - 3] == "-"


def _comment(text: str, at: int) -> tuple[int, bool]:
    """Where the comment that begins here ends, and whether it trims the text behind it."""
    stop = text.find("*/", at)
    closed = re.compile(r"\*/([ \t\r\n]-)?\}\}").match(text, stop) if stop >= 0 else None
    if not closed:
        raise BrokenTemplate("the template has a comment that does not end")
    return closed.end(), bool(closed[1])


class _Parser:
    """Reads the tokens from left to right. Each method stands before what it reads and leaves what follows."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._variables = ["$"]
        self._ranges = 0
        self._defined: set[str] = set()
        self.names: set[str] = set()

    def root(self) -> _Nodes:
        """All nodes outside of definitions."""
        nodes: _Nodes = []
        while (token := self._next()) is not _EOF:
            if token.kind == "text":
                nodes.append(token.text)
            elif self._skip_spaces().text == "define":
                self._next()
                name = self._name()
                self._expect("close")
                self._define(name)
            else:
                nodes.append(self._action())
        return nodes

    def _list(self) -> tuple[_Nodes, str]:
        """The nodes up to the next `end` or `else`, and which of them it was."""
        nodes: _Nodes = []
        while (token := self._next()) is not _EOF:
            if token.kind == "text":
                nodes.append(token.text)
            elif (ahead := self._skip_spaces()).kind == "word" and ahead.text in ("end", "else"):
                self._next()
                if ahead.text == "end":
                    self._expect("close")
                return nodes, ahead.text
            else:
                nodes.append(self._action())
        raise BrokenTemplate("the template has a block that does not end")

    def _action(self) -> _Action:
        token = self._peek()
        if token.kind != "word" or token.text not in _KEYWORDS:
            return _Action("", self._top())
        self._next()
        if token.text in ("if", "range", "with"):
            return self._control(token.text)
        if token.text in ("break", "continue") and self._ranges:
            self._expect("close")
            return _Action(token.text)
        if token.text in ("template", "block"):
            name = self._name()
            # Ollama refuses a template that is called without data, so the pipeline is not optional here.
            action = _Action(token.text, self._top())
            if token.text == "block":
                self._define(name)
            return action
        raise BrokenTemplate(f"the template has {{{{{token.text}}}}} where none can be")

    def _control(self, keyword: str) -> _Action:
        known = len(self._variables)
        pipe = self._top(keyword)
        self._ranges += keyword == "range"
        body, ended = self._list()
        self._ranges -= keyword == "range"
        lists = [body]
        if ended == "else":
            if self._skip_spaces().text == keyword and keyword != "range":
                self._next()
                lists.append([self._control(keyword)])
            else:
                self._expect("close")
                other, ended = self._list()
                if ended != "end":
                    raise BrokenTemplate("the template has a block with two {{else}}")
                lists.append(other)
        del self._variables[known:]
        return _Action(keyword, pipe, tuple(lists))

    def _define(self, name: str) -> None:
        """The body of a template of its own: it sees no variables but `$`."""
        outer = self._variables, self._ranges
        self._variables, self._ranges = ["$"], 0
        nodes, ended = self._list()
        self._variables, self._ranges = outer
        if ended != "end":
            raise BrokenTemplate("the template has an {{else}} where none can be")
        if any(not isinstance(node, str) or node.strip() for node in nodes):
            if name in self._defined:
                raise BrokenTemplate("the template defines a name twice")
            self._defined.add(name)

    def _top(self, keyword: str = "") -> _Pipe:
        """The pipeline of an action, whose names count."""
        pipe = self._pipeline("close", keyword)
        self.names |= {name.lower() for name in pipe.names}
        return pipe

    def _pipeline(self, closing: str, keyword: str = "") -> _Pipe:
        self._declarations(keyword)
        pipe = _Pipe()
        stages = 0
        while self._skip_spaces().kind != closing:
            kind = self._command(pipe)
            if stages and kind == "literal":
                raise BrokenTemplate("the template passes a value on to a constant")
            stages += 1
        self._next()
        if not stages:
            raise BrokenTemplate("the template has an empty pipeline")
        return pipe

    def _declarations(self, keyword: str) -> None:
        """`$x :=`, `$x =`, and in a range `$i, $x :=`."""
        declared = 0
        while self._skip_spaces().kind == "variable":
            start = self._at
            variable = self._next().text
            mark = self._skip_spaces().kind
            if mark not in (":=", "=", ","):
                self._at = start
                return
            self._next()
            self._variables.append(variable)
            declared += 1
            if mark != ",":
                return
            if keyword != "range" or declared > 1 or self._skip_spaces().kind not in ("variable", "close"):
                raise BrokenTemplate("the template declares more variables than it can")

    def _command(self, pipe: _Pipe) -> str:
        """Operands up to the next `|`, or to what closes the pipeline; returns the kind of the first."""
        kinds: list[str] = []
        while True:
            self._skip_spaces()
            if kind := self._operand(pipe):
                kinds.append(kind)
            token = self._peek()
            if token.kind == "space":
                continue
            if token.kind == "|":
                self._next()
            elif token.kind not in ("close", ")"):
                raise BrokenTemplate(f"the template has {token.text[:20]!a} where none can be")
            break
        if not kinds:
            raise BrokenTemplate("the template has an empty command")
        return kinds[0]

    def _operand(self, pipe: _Pipe) -> str:
        """One operand with the fields behind it; returns its kind, empty where none stands here."""
        token = self._peek()
        kind = "literal" if token.kind == "." or token.text in _CONSTANTS else token.kind
        if kind not in ("literal", "field", "variable", "word", "(") or (kind == "word" and token.text in _KEYWORDS):
            return ""
        self._next()
        if kind == "word" and token.text not in _FUNCTIONS:
            raise BrokenTemplate(f"the template calls {token.text[:40]!a}, which is no function")
        if kind == "variable" and token.text not in self._variables:
            raise BrokenTemplate(f"the template uses {token.text[:40]!a}, which it does not declare")
        inner = self._pipeline(")") if kind == "(" else _Pipe()
        parts = [token.text.lstrip(".")] if kind in ("field", "variable") else []
        chained = False
        while self._peek().kind == "field":
            parts.append(self._next().text.lstrip("."))
            chained = True
        if kind in ("field", "variable"):
            pipe.names.update(parts)
            pipe.fields.update(parts[:1] if kind == "field" else ())
        elif chained and kind == "literal":
            raise BrokenTemplate("the template asks a constant for a field")
        elif not chained:
            # Ollama does not look at what stands before a field in parentheses, as in `(index .Tools 0).Name`.
            pipe.names |= inner.names
            pipe.fields |= inner.fields
        return kind

    def _name(self) -> str:
        """The name of a template, a string."""
        token = self._skip_spaces()
        if token.kind != "literal" or token.text[0] not in '"`':
            raise BrokenTemplate("the template names a template by something else than a string")
        return self._next().text[1:-1]

    def _expect(self, kind: str) -> None:
        if self._skip_spaces().kind != kind:
            raise BrokenTemplate("the template has an action with too much in it")
        self._next()

    def _skip_spaces(self) -> _Token:
        """The next token that is no space, which stays the next."""
        while self._peek().kind == "space":
            self._at += 1
        return self._peek()

    def _peek(self) -> _Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else _EOF

    def _next(self) -> _Token:
        token = self._peek()
        self._at += 1
        return token
