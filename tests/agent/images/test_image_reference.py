"""Image names: what people write, what it means, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyswarm_agent.images.reference import Reference, parse_reference
from pyswarm_common.errors import InvalidArgument

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25"),
        ("library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("grafana/loki:2", "docker.io/grafana/loki:2", "grafana/loki:2"),
        ("localhost/web", "localhost/web:latest", "localhost/web:latest"),
        ("localhost:5000/web", "localhost:5000/web:latest", "localhost:5000/web:latest"),
        ("127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t"),
        ("[::1]:5000/web", "[::1]:5000/web:latest", "[::1]:5000/web:latest"),
        ("Registry/web", "Registry/web:latest", "Registry/web:latest"),
        ("ghcr.io/a_b/c__d/e---f.g", "ghcr.io/a_b/c__d/e---f.g:latest", "ghcr.io/a_b/c__d/e---f.g:latest"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}", f"nginx@{DIGEST}"),
        (f"nginx:1@{DIGEST}", f"docker.io/library/nginx:1@{DIGEST}", f"nginx:1@{DIGEST}"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
    ],
)
def test_a_name_means_one_image(text: str, full: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert (str(reference), reference.familiar) == (full, familiar)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        (":tag", "invalid reference format"),
        ("nginx:", "invalid reference format"),
        ("nginx:a b", "invalid reference format"),
        ("nginx:latest\n", "invalid reference format"),
        ("nginx:" + "t" * 129, "invalid reference format"),
        ("-nginx", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("../../etc/passwd", "invalid reference format"),
        ("https://example.com/web", "invalid reference format"),
        ("Nginx", "repository name (library/Nginx) must be lowercase"),
        ("nginx@sha256:123", "invalid reference format"),
        ("nginx@md5:" + "0" * 32, "sha256 digests only"),
        ("0" * 64, "cannot specify 64-byte hexadecimal strings"),
        ("a/" * 130 + "b", "must not be more than 255 characters"),
    ],
)
def test_a_bad_name_is_refused_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_reference(text)
    assert message in str(caught.value)


_components = st.from_regex(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", fullmatch=True).filter(lambda text: len(text) < 40)
_domains = st.sampled_from(["docker.io", "localhost", "localhost:5000", "10.1.2.3:80", "quay.io", "Reg", "[fe80::1]:5000"])
_references = st.builds(
    Reference,
    domain=_domains,
    path=st.lists(_components, min_size=2, max_size=4).map("/".join),
    tag=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    digest=st.sampled_from(["", DIGEST]),
)


@given(_references)
def test_both_written_forms_lead_back_to_the_reference(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.familiar) == reference


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_an_invalid_argument(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidArgument:
        return
    assert parse_reference(str(reference)) == reference
