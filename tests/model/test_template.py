"""What a template uses, by the rules of Go's `text/template` and of Ollama's reading of it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.model.template import BrokenTemplate, Template

THINKING = "{{ range .Messages }}<think>{{ .Thinking }}</think>{{ end }}"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", set()),
        ("no action, only }} and { }", set()),
        ("{{ .Prompt }}", {"prompt"}),
        ("{{.System}}{{- .Prompt -}}", {"system", "prompt"}),
        ("{{ if .Tools }}{{ end }}", {"tools"}),
        ("{{ if .A }}{{ else if or .B .C }}{{ else }}{{ .D }}{{ end }}", {"a", "b", "c", "d"}),
        ("{{ with .A }}{{ else with .B }}{{ end }}", {"a", "b"}),
        (
            "{{ range $i, $m := .Messages }}{{ $m.Content }}{{ break }}{{ else }}{{ end }}",
            {"messages", "$m", "content"},
        ),
        ("{{ $t := $.Tools }}{{ $t }}", {"$", "tools", "$t"}),
        ("{{ json .Tools | printf `%s` }}", {"tools"}),
        ("{{ (json .Tools) }}", {"tools"}),
        ("{{ (index .Tools 0).Name }}", set()),
        ("{{ .tools.X }}", {"tools", "x"}),
        ("{{/* .Tools */}}{{- /* .Tools */ -}} ", set()),
        ('{{ "{{ .Tools }}" }}{{ `\n.Tools}}` }}{{ \'"\' }}', set()),
        ("{{ .Prompt }} the word .Tools", {"prompt"}),
        ('{{ define "x" }}{{ .Tools }}{{ end }}', {"tools"}),
        ('{{ block "x" .A }}{{ .B }}{{ end }}{{ template "x" .C }}', {"a", "b", "c"}),
        ("{{ .A\n}}{{ eq 0x1F -1.5e3 }}{{ true }}{{ nil | json }}", {"a"}),
        ("{{ .Grüße }}", {"grüße"}),
    ],
)
def test_the_names_of_a_template_are_those_in_its_actions(text: str, names: set[str]) -> None:
    assert Template.parse(text).names == names


@pytest.mark.parametrize(
    "text",
    [
        "{{ .Prompt",
        "{{",
        "{{ }}",
        "{{ nosuch .Prompt }}",
        "{{ close }}",
        "{{ .A }} {{ end }}",
        "{{ else }}",
        "{{ if .A }}",
        "{{ if }}{{ end }}",
        "{{ if .A }}{{ else }}{{ else }}{{ end }}",
        "{{ range .A }}{{ else range .B }}{{ end }}",
        "{{ break }}",
        "{{ $x }}",
        "{{ if $x := .A }}{{ end }}{{ $x }}",
        '{{ $x := 1 }}{{ define "d" }}{{ $x }}{{ end }}',
        '{{ define "d" }}a{{ end }}{{ define "d" }}b{{ end }}',
        '{{ if .A }}{{ define "d" }}{{ end }}{{ end }}',
        '{{ template "x" }}',
        "{{ template x . }}",
        '{{ "a }}',
        '{{ "\\q" }}',
        "{{ 'ab' }}",
        "{{ `a }}",
        "{{ (.A }}",
        "{{ .A) }}",
        "{{ .A | 1 }}",
        "{{ .A ! .B }}",
        "{{ 5a }}",
        "{{ .5a }}",
        "{{ nil.A }}",
        "{{/* no end",
        "{{/* .A */ .B }}",
        "{{ /* .A */ }}",
        "{{ $a, $b := .C }}",
        "{{ define .A }}{{ end }}",
        "{{ if " + "(" * 50_000 + "}}",
        "{{ if .A }}" * 5_000,
    ],
    ids=lambda text: text[:40],
)
def test_what_go_or_ollama_refuses_is_broken(text: str) -> None:
    with pytest.raises(BrokenTemplate):
        Template.parse(text)


@pytest.mark.parametrize(
    ("text", "thinks"),
    [
        (THINKING, True),
        ("{{- range .Messages }}{{ if .Thinking }}<t>{{ .Thinking }}</t>{{ end }}{{ .Content }}{{ end }}", True),
        ("{{ range $i, $_ := .Messages }}<t>{{ .Thinking }}</t>{{ end }}", True),
        ("<think>{{ .Prompt }}</think>", False),
        ("<t>{{ .Thinking }}</t>", False),
        ("{{ range .Other }}<t>{{ .Thinking }}</t>{{ end }}", False),
        ("{{ range .Messages }}{{ range .Parts }}<t>{{ .Thinking }}</t>{{ end }}{{ end }}", False),
        ("{{ range .Messages }}<t>{{ .Thinking }}{{ end }}", False),
        ("{{ range .Messages }} {{ .Thinking }} {{ end }}", False),
        ("{{ range .Messages }}<t>{{ $.Thinking }}</t>{{ end }}", False),
        ("{{ range $.Messages }}<t>{{ .Thinking }}</t>{{ end }}", False),
        ("{{ range .Messages }}<t>{{/* .Thinking */}}</t>{{ end }}", False),
        (f'{{{{ define "d" }}}}{THINKING}{{{{ end }}}}', False),
    ],
)
def test_thoughts_are_what_stands_between_texts_in_a_range_over_the_messages(text: str, thinks: bool) -> None:
    assert Template.parse(text).thinks is thinks


@given(
    st.lists(
        st.sampled_from(["{{", "}}", " ", "-", "if", "end", ".A", "$x", ":=", "(", ")", '"', "|", "/*", "*/", "x"])
    )
)
def test_any_text_is_a_template_or_a_broken_one_and_nothing_else(parts: list[str]) -> None:
    with contextlib.suppress(BrokenTemplate):
        Template.parse("".join(parts))
