"""Log drivers and their options: what is taken, what is refused and how, and what follows from them."""

import pytest

from pyswarm_common.errors import InvalidArgument
from pyswarm_common.log_drivers import LogLimits, check_log_driver, expand_tag, log_attributes, log_limits, merged_log_options

MB = 1_000_000


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("json-file", {}),
        ("json-file", {"max-size": "10m", "max-file": "3", "compress": "true", "labels": "a,b", "env": "X", "tag": "{{.Name}}"}),
        ("json-file", {"max-size": "-1", "compress": "false", "mode": "non-blocking", "max-buffer-size": "4m"}),
        ("local", {"max-size": "1g", "max-file": "1"}),
        ("journald", {"labels-regex": "^a", "env-regex": "^A", "tag": "web"}),
        ("none", {"anything": "goes"}),
    ],
)
def test_taken(driver: str, options: dict[str, str]) -> None:
    check_log_driver(driver, options)


@pytest.mark.parametrize(
    ("driver", "options", "words"),
    [
        ("syslog", {}, "logger: no log driver named 'syslog' is registered"),
        ("json-file", {"max-sise": "1"}, "unknown log opt 'max-sise' for json-file log driver"),
        ("local", {"gelf-address": "x"}, "unknown log opt 'gelf-address' for log driver local"),
        ("journald", {"max-size": "1m"}, "unknown log opt 'max-size' for journald log driver"),
        ("json-file", {"max-size": "much"}, "invalid size: 'much'"),
        ("json-file", {"max-size": "0"}, "max-size must be a positive number"),
        ("json-file", {"max-size": "-2"}, "invalid size: '-2'"),
        ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"max-file": "few"}, "invalid value for max-file: few"),
        ("json-file", {"compress": "yes"}, "invalid value for compress: yes"),
        ("json-file", {"compress": "true", "max-file": "1"}, "compress cannot be true when max-file is less than 2"),
        ("json-file", {"compress": "true", "max-size": "-1"}, "or max-size is not set"),
        ("json-file", {"mode": "sometimes"}, "logger: logging mode not supported: sometimes"),
        ("local", {"max-buffer-size": "1m"}, "max-buffer-size option is only supported with 'mode=non-blocking'"),
        ("json-file", {"env-regex": "("}, "error parsing regexp"),
        ("json-file", {"env-regex": "(" * 5000}, "error parsing regexp"),
        ("json-file", {"max-size": "9" * 400}, "invalid value for max-size: "),
        ("json-file", {"max-file": "9" * 5000}, "invalid value for max-file: "),
        ("json-file", {"tag": "{{.Nam}}"}, "{{.Nam}} is unknown, known are {{.ID}}, {{.FullID}}"),
    ],
)
def test_refused(driver: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_log_driver(driver, options)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("driver", "options", "limits"),
    [
        ("json-file", {}, LogLimits(100 * MB, 5, True)),
        ("", {}, LogLimits(100 * MB, 5, True)),
        ("local", {}, LogLimits(20 * 1024 * 1024, 5, True)),
        ("json-file", {"max-size": "10m"}, LogLimits(10 * MB, 5, True)),
        ("json-file", {"max-size": "1.5k", "max-file": "2", "compress": "false"}, LogLimits(1500, 2, False)),
        ("json-file", {"max-file": "1"}, LogLimits(100 * MB, 1, False)),
        ("json-file", {"max-size": "-1"}, LogLimits(0, 5, False)),
        ("journald", {}, None),
        ("none", {}, None),
    ],
)
def test_limits(driver: str, options: dict[str, str], limits: LogLimits | None) -> None:
    assert log_limits(driver, options) == limits


@pytest.mark.parametrize(
    ("driver", "options", "expected"),
    [
        ("", None, ("local", {"max-size": "1m", "max-file": "2"})),
        ("", {"max-size": "5m"}, ("local", {"max-size": "5m", "max-file": "2"})),
        ("local", {"max-file": "9"}, ("local", {"max-size": "1m", "max-file": "9"})),
        ("json-file", {"max-file": "9"}, ("json-file", {"max-file": "9"})),
        ("none", None, ("none", {})),
    ],
)
def test_what_a_container_does_not_say_the_node_does(
    driver: str, options: dict[str, str] | None, expected: tuple[str, dict[str, str]]
) -> None:
    assert merged_log_options(driver, options, "local", {"max-size": "1m", "max-file": "2"}) == expected


def test_attributes_are_what_the_options_choose() -> None:
    labels, env = {"a": "1", "b": "2", "team.x": "3"}, ("A=x=y", "B=2", "PORT=1")
    options = {"labels": "a,missing", "labels-regex": "^team", "env": "A", "env-regex": "^P"}
    assert log_attributes(options, labels, env, "t") == {"a": "1", "team.x": "3", "A": "x=y", "PORT": "1", "tag": "t"}
    assert log_attributes({}, labels, env, "") == {}


def test_tags() -> None:
    assert expand_tag("{{.Name}}/{{ .ID }}", {"Name": "web", "ID": "abc"}.get) == "web/abc"
