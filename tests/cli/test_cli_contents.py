"""`pyswarm secret`, `pyswarm config`, and services that refer to them."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from pyswarm_cli.content.references import changed_references, parse_reference
from pyswarm_manager.store.store import Store

pytestmark = pytest.mark.usefixtures("store")

Run = Callable[..., Awaitable[Result]]


@pytest.mark.parametrize("noun", ["secret", "config"])
async def test_life(pyswarm: Run, store: Store, tmp_path: Path, noun: str) -> None:
    file = tmp_path / "value"
    file.write_bytes(b"open sesame\xff")
    created = await pyswarm(noun, "create", "--label", "a=b", "key", str(file))
    content_id = created.output.strip()
    table = store.view.secrets if noun == "secret" else store.view.configs
    assert table.must_get(content_id).data == b"open sesame\xff"
    other = await pyswarm(noun, "create", "--template-driver", "golang", "other", "-", input=b"from stdin")
    assert table.must_get(other.output.strip()).data == b"from stdin"
    listed = (await pyswarm(noun, "ls")).output.splitlines()
    headings = ["ID", "NAME", *(["DRIVER"] if noun == "secret" else []), "CREATED", "UPDATED"]
    assert listed[0].split() == headings
    assert [line.split()[1] for line in listed[1:]] == ["key", "other"]
    assert "ago" in listed[1]
    assert (await pyswarm(noun, "ls", "-q", "--filter", "label=a=b")).output.split() == [content_id]
    assert (await pyswarm(noun, "ls", "--format", "{{.Name}} {{.Labels}}")).output == "key a=b\nother \n"
    (found,) = json.loads((await pyswarm(noun, "inspect", "key")).output)
    assert (found["ID"], "Data" in found["Spec"]) == (content_id, noun == "config")
    pretty = (await pyswarm(noun, "inspect", "--pretty", "key", "other")).output
    assert f"ID: {content_id}\nName: key\nLabels:\n - a=b\n" in pretty
    assert ("open sesame" in pretty) == (noun == "config")
    assert "Template driver: golang" in pretty
    assert (await pyswarm(noun, "update", "--label-add", "c=d", "--label-rm", "a", "key")).output == "key\n"
    assert table.must_get(content_id).spec.labels == {"c": "d"}
    removed = await pyswarm(noun, "rm", "key", "nosuch", "other")
    assert (removed.exit_code, removed.stdout) == (1, "key\nother\n")
    assert f"{noun} nosuch not found" in removed.stderr
    assert len(table) == 0


async def test_what_cannot_be_read(pyswarm: Run, tmp_path: Path) -> None:
    result = await pyswarm("secret", "create", "key", str(tmp_path / "nosuch"))
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr
    empty = await pyswarm("secret", "create", "key", "-", input=b"")
    assert "secret data must be larger than 0 and less than 512000 bytes" in empty.stderr


async def test_services_refer_to_them(pyswarm: Run, store: Store) -> None:
    ids = {name: (await pyswarm("secret", "create", name, "-", input=b"x")).output.strip() for name in ("s1", "s12", "s2")}
    config_id = (await pyswarm("config", "create", "c1", "-", input=b"x")).output.strip()
    line = "service create -d --name web --secret s1 --config source=c1,target=/etc/c1,uid=33,mode=0440 nginx"
    assert (await pyswarm(*line.split())).exit_code == 0

    def container() -> dict[str, list[dict[str, object]]]:
        service = store.view.services.named("web")[0]
        found: dict[str, list[dict[str, object]]] = json.loads(store.view.task_specs.must_get(service.task_spec_id).template_json)[
            "ContainerSpec"
        ]
        return found

    s1 = {"File": {"Name": "s1", "UID": "0", "GID": "0", "Mode": 0o444}, "SecretID": ids["s1"], "SecretName": "s1"}
    c1 = {"File": {"Name": "/etc/c1", "UID": "33", "GID": "0", "Mode": 0o440}, "ConfigID": config_id, "ConfigName": "c1"}
    assert (container()["Secrets"], container()["Configs"]) == ([s1], [c1])
    pretty = (await pyswarm("service", "inspect", "--pretty", "web")).output
    assert " Secrets:\n  - s1 as s1\n Configs:\n  - c1 as /etc/c1\n" in pretty
    line = "service update -d --secret-rm s1 --secret-add source=s2,target=s1 --config-rm c1 web"
    assert (await pyswarm(*line.split())).exit_code == 0
    s2 = {"File": {"Name": "s1", "UID": "0", "GID": "0", "Mode": 0o444}, "SecretID": ids["s2"], "SecretName": "s2"}
    assert (container()["Secrets"], container()["Configs"]) == ([s2], [])
    missing = await pyswarm("service", "update", "-d", "--secret-add", "s", "web")
    assert (missing.exit_code, "secret not found: s" in missing.stderr) == (1, True)
    twice = await pyswarm("service", "update", "-d", "--secret-add", "source=s12,target=s1", "web")
    assert "secret references 's2' and 's12' have a conflicting target: 's1'" in twice.stderr


@pytest.mark.parametrize(
    ("text", "mode", "target"),
    [
        ("key", 0o444, "key"),
        ("source=key", 0o444, "key"),
        ("src=key,target=/x,mode=0400", 0o400, "/x"),
        ("source=key,mode=256", 256, "key"),
        ("source=key,mode=0o600", 0o600, "key"),
    ],
)
def test_references(text: str, mode: int, target: str) -> None:
    file = {"Name": target, "UID": "0", "GID": "0", "Mode": mode}
    assert parse_reference(text, "secret") == {"File": file, "SecretID": "", "SecretName": "key"}


@pytest.mark.parametrize("text", ["", "target=x", "source=a,mode=rw", "source=a,mode=089", "source=a,nosuch=b"])
def test_bad_references(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_reference(text, "config")


def test_what_is_not_named_stays() -> None:
    options = {"secret_add": [], "secret_rm": (), "config_add": [{"ConfigName": "b"}], "config_rm": ("a",)}
    container = {"Secrets": [{"SecretName": "s"}], "Configs": [{"ConfigName": "a"}, {"ConfigName": "c"}]}
    assert changed_references(container, options) == {"Configs": [{"ConfigName": "c"}, {"ConfigName": "b"}]}
