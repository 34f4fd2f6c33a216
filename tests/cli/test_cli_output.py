"""Tables, JSON lines and templates."""

import json

import click
import pytest

from pyswarm_cli import output
from pyswarm_cli.output import parse_filters, print_inspected, print_rows
from pyswarm_cli.pretty import member_lines
from pyswarm_cli.templates import fill

ROWS = [{"ID": "k0vrkkcp7wqh", "Name": "web", "Note": "two\nlines"}, {"ID": "x6awaxwz8h1a", "Name": "worker", "Note": ""}]
COLUMNS = {"ID": "ID", "NAME": "Name", "NOTE": "Note"}


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS, COLUMNS, "table")
    assert capsys.readouterr().out.splitlines() == [
        "ID             NAME     NOTE",
        "k0vrkkcp7wqh   web      two lines",
        "x6awaxwz8h1a   worker",
    ]


def test_an_empty_table_has_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([], COLUMNS, "table")
    assert capsys.readouterr().out == "ID   NAME   NOTE\n"


def test_json_lines_and_ids(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS, COLUMNS, "json")
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS
    print_rows(ROWS, COLUMNS, "json", quiet_key="ID")
    assert capsys.readouterr().out == "k0vrkkcp7wqh\nx6awaxwz8h1a\n"


@pytest.mark.parametrize(
    ("template", "printed"),
    [
        ("{{.Name}}", "web\nworker\n"),
        ("{{ .Name }}\\t{{.ID}}", "web\tk0vrkkcp7wqh\nworker\tx6awaxwz8h1a\n"),
        ("{{json .Name}}", '"web"\n"worker"\n'),
        ("table {{.Name}}\\t{{.ID}}", "NAME     ID\nweb      k0vrkkcp7wqh\nworker   x6awaxwz8h1a\n"),
    ],
)
def test_templates(capsys: pytest.CaptureFixture[str], template: str, printed: str) -> None:
    print_rows(ROWS, COLUMNS, template)
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("template", ["{{.Nosuch}}", "{{range .}}x{{end}}", "table {{.Nosuch}}"])
def test_bad_templates(template: str) -> None:
    with pytest.raises(click.UsageError, match="--format"):
        print_rows(ROWS, COLUMNS, template)


def test_inspected_objects(capsys: pytest.CaptureFixture[str]) -> None:
    found = [{"ID": "a", "Spec": {"Name": "web", "Labels": None, "TTY": True}}]
    print_inspected(found, "")
    assert json.loads(capsys.readouterr().out) == found
    print_inspected(found, "{{.Spec.Name}} {{.Spec.Labels}} {{.Spec.TTY}} {{json .Spec}}")
    assert capsys.readouterr().out == 'web <no value> true {"Name": "web", "Labels": null, "TTY": true}\n'
    with pytest.raises(click.UsageError, match=r"there is no \.Spec\.X; there is: Name, Labels, TTY"):
        print_inspected(found, "{{.Spec.X}}")


def test_braces_that_are_no_template_stay() -> None:
    assert fill("plain {text}", {}) == "plain {text}"


def test_filters() -> None:
    assert parse_filters(("name=web", "label=a=b", "name=db")) == {"name": {"web": True, "db": True}, "label": {"a=b": True}}
    assert parse_filters(()) is None
    with pytest.raises(click.UsageError, match="not KEY=VALUE"):
        parse_filters(("name",))


def test_short_ids() -> None:
    assert output.short_id("sha256:0123456789abcdef") == "0123456789ab"
    assert output.short_id("sha256:0123456789abcdef", whole=True) == "sha256:0123456789abcdef"


def test_members_for_people() -> None:
    members = {"ID": "a", "Labels": {}, "Status": {"State": "Ready", "Message": None}, "Empty": {"X": None}, "Ports": ["80", "81"]}
    assert list(member_lines(members)) == ["ID: a", "Status:", " State: Ready", "Ports:", " - 80", " - 81"]
