"""What secrets and configs become in a container: paths, owners, and templates filled in."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_agent.placeholders import NodeNames
from pyswarm_agent.runtime.private_files import PrivateFile
from pyswarm_agent.task_files import container_files
from pyswarm_agent.templates import template_pieces
from pyswarm_common.container_spec import ConfigReference, ContainerSpec, FileTarget, SecretReference
from pyswarm_common.errors import InvalidArgument, NotFound
from pyswarm_common.task_states import TaskState
from pyswarm_common.wire import FileContent, TaskAssignment

NODE = NodeNames(id="n1", hostname="host1", architecture="x86_64")
TASK = TaskAssignment(
    task_id="t1", task_spec_id="spec", desired_state=TaskState.RUNNING, service_id="svc", service_name="web", slot=3
)


def secret(name: str, /, **file: object) -> SecretReference:
    return SecretReference(secret_id=f"id-{name}", secret_name=name, file=FileTarget(**{"name": name, **file}))  # type: ignore[arg-type]


def config(name: str, /, **file: object) -> ConfigReference:
    return ConfigReference(config_id=f"id-{name}", config_name=name, file=FileTarget(**{"name": name, **file}))  # type: ignore[arg-type]


def filled(template: str, *, noun: str = "config") -> str:
    """Return what a template becomes, beside a secret and a config and two variables."""
    own = {"secrets": [secret("own")]} if noun == "secret" else {}
    spec = ContainerSpec(
        env=["A=1", "HOST={{.Node.Hostname}}"],
        secrets=[secret("key", name="db-key"), *own.get("secrets", [])],
        configs=[config("conf", name="/etc/conf"), *([config("own")] if noun == "config" else [])],
    )
    contents = {
        "id-key": FileContent(data=b"open {{sesame}}"),
        "id-conf": FileContent(data=b"c\xff"),
        "id-own": FileContent(data=template.encode("utf-8", "surrogateescape"), is_template=True),
    }
    (file,) = [file for file in container_files(TASK, spec, contents, NODE) if file.target.endswith("/own")]
    return file.data.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        (secret("key"), "/run/secrets/key"),
        (secret("key", name="tls/key.pem"), "/run/secrets/tls/key.pem"),
        (secret("key", name="/etc/key"), "/etc/key"),
        (secret("key", name="//etc//key"), "/etc/key"),
        (secret("key", name="../../../etc/key"), "/etc/key"),
        (config("key"), "/key"),
        (config("key", name="etc/key"), "/etc/key"),
        (config("key", name="/etc/../key"), "/key"),
    ],
)
def test_targets(reference: SecretReference | ConfigReference, target: str) -> None:
    is_secret = isinstance(reference, SecretReference)
    spec = ContainerSpec(secrets=[reference]) if is_secret else ContainerSpec(configs=[reference])  # type: ignore[list-item]
    files = container_files(TASK, spec, {"id-key": FileContent(data=b"x")}, NODE)
    assert files == (PrivateFile(target, b"x"),)


def test_owners_and_modes() -> None:
    spec = ContainerSpec(secrets=[secret("a", uid="33", gid="50", mode=0o400), secret("b", uid="", gid="")])
    files = container_files(TASK, spec, {name: FileContent(data=b"{{x") for name in ("id-a", "id-b")}, NODE)
    assert [(file.user_id, file.group_id, file.mode, file.data) for file in files] == [
        (33, 50, 0o400, b"{{x"),
        (0, 0, 0o444, b"{{x"),
    ]


def test_a_config_for_the_runtime_is_no_file() -> None:
    spec = ContainerSpec(configs=[ConfigReference(config_id="id-a", config_name="a", runtime={})])
    assert container_files(TASK, spec, {"id-a": FileContent(data=b"x")}, NODE) == ()


def test_what_is_missing_is_named() -> None:
    with pytest.raises(NotFound, match="secret key not found"):
        container_files(TASK, ContainerSpec(secrets=[secret("key")]), {}, NODE)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("no placeholder { } }}", "no placeholder { } }}"),
        ("{{.Service.Name}}.{{ .Task.Slot }}@{{.Node.Hostname}}", "web.3@host1"),
        ("{{ .Task.Name }}", "web.3.t1"),
        ('a={{env "A"}} h={{ env `HOST` }} n={{env "NONE"}}.', "a=1 h=host1 n=."),
        ('{{ secret "db-key" }}', "open {{sesame}}"),
        ('{{config "/etc/conf"}}', "c\udcff"),
        ("a  {{- .Task.Slot -}}  \n b", "a3b"),
        ("a {{/* nothing\n here */}} b", "a  b"),
        ('{{ "{{" }}x', "{{x"),
        ("{{/* a }} b */}}{{- /* c */ -}}  d", "d"),
        ("{{.Task.ID}}{{.Task.ID}}", "t1t1"),
        ("x {{ .Task.ID -}}\n\n y", "x t1y"),
        ("binary \udc80\udcff {{.Task.ID}}", "binary \udc80\udcff t1"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert filled(template) == text


@pytest.mark.parametrize("part", [" ", "{{", "{{ ", "{{- ", "{{/*", "{{/*}}", "x", "\n{{.Task.ID}}", "{{.Task.ID -}}   "])
def test_long_templates_take_no_longer_than_they_are_long(part: str) -> None:
    for text in (part * (900_000 // len(part)), "{{" + part * (900_000 // len(part))):
        before_s = time.process_time()
        with contextlib.suppress(InvalidArgument):
            filled(text)
        assert time.process_time() - before_s < 3


@given(st.lists(st.sampled_from(["{{", "}}", "-", " ", "\n", "/*", "*/", ".Task.ID", '"a"', "x"]), max_size=30).map("".join))
def test_pieces_lose_nothing_but_white_space_and_comments(text: str) -> None:
    pieces = list(template_pieces(text))
    assert [piece.position for piece in pieces] == sorted(piece.position for piece in pieces)
    if "{{" not in text:
        assert "".join(piece.text for piece in pieces) == text
    assert all("{{" not in piece.text for piece in pieces if not piece.is_action)
    for piece in pieces:
        assert piece.text in text


@pytest.mark.parametrize("action", [".Task.Nothing", 'secret "other"', "config `x`", "if .Task.ID", 'exec "x"', ""])
def test_what_cannot_be_filled_in_is_said(action: str) -> None:
    with pytest.raises(InvalidArgument):
        filled("{{" + action + "}}")


def test_a_template_does_not_grow_without_end() -> None:
    large = FileContent(data=bytes(900_000))
    spec = ContainerSpec(configs=[config("large"), config("own")])
    contents = {"id-large": large, "id-own": FileContent(data=b'{{config "large"}}' * 5, is_template=True)}
    with pytest.raises(InvalidArgument, match="expanding config own failed: it becomes longer than"):
        container_files(TASK, spec, contents, NODE)


def test_errors_do_not_show_what_is_in_a_secret() -> None:
    with pytest.raises(InvalidArgument) as caught:
        filled("one\n two {{ sesame }}", noun="secret")
    assert caught.value.message == "secret own, line 2: this placeholder cannot be filled in"
    with pytest.raises(InvalidArgument, match=r"config own, line 3: .*sesame"):
        filled("{{.Task.ID}}\n\n{{ sesame }}")


@given(st.binary())
def test_what_is_no_template_is_left_alone(data: bytes) -> None:
    files = container_files(TASK, ContainerSpec(secrets=[secret("key")]), {"id-key": FileContent(data=data)}, NODE)
    assert [file.data for file in files] == [data]


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="{}")))
def test_text_without_placeholders_is_left_alone(text: str) -> None:
    assert filled(text) == text


def test_no_text_form_of_a_file_shows_it() -> None:
    assert "sesame" not in repr(PrivateFile("/key", b"open sesame"))
