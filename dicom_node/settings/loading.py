"""Settings from one TOML file and the environment; what is wrong is said in one line.

Precedence: environment (`DICOM_NODE_<SECTION>__<KEY>`), then the file, then the defaults.
Lists and tables in the environment are JSON; a list of plain words may be separated by commas.
Relative paths are relative to the working directory. Unknown keys are errors.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dicom_node.errors import ConfigError
from dicom_node.settings.methods import Key
from dicom_node.settings.methods import problems as method_problems
from dicom_node.settings.sections import Settings
from explain_core import toml_files

ENV_PREFIX = "DICOM_NODE_"


CONFIG_VARIABLE = "DICOM_NODE_CONFIG"
"""Names the settings file for the command line; not a setting."""


_Problem = tuple[tuple[str | int, ...], str]


def load_settings(path: Path | None, env: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Args:
        path: the TOML file, or None for defaults and environment only.
        env: the environment.

    Raises:
        ConfigError: one line, `file:line: key: what to do`, or `environment: VARIABLE: what to do`.
    """
    try:
        data, text = toml_files.read(path, "the settings file") if path else ({}, "")
    except toml_files.TomlWrong as error:
        raise ConfigError(str(error)) from None
    variables = _overlay(data, env)
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _located((first["loc"], toml_files.advice(first, Settings)), path, text, variables) from None
    for problem in _contradictions(settings):
        raise _located(problem, path, text, variables)
    return settings


def _overlay(data: dict[str, Any], env: Mapping[str, str]) -> dict[tuple[str | int, ...], str]:
    """Put the environment's values into `data`; return which variable set which key."""
    variables: dict[tuple[str | int, ...], str] = {}
    for variable in sorted(env):
        if not variable.startswith(ENV_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        path = tuple(variable.removeprefix(ENV_PREFIX).lower().split("__"))
        table: Any = data
        for part in path[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"environment: {variable}: set the whole of {path[0]} as JSON instead")
        table[path[-1]] = _value(variable, env[variable])
        variables[path] = variable
    return variables


def _value(variable: str, text: str) -> Any:
    if text.lstrip()[:1] not in {"[", "{"}:
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"environment: {variable}: not valid JSON: {error}") from None


def _located(
    problem: _Problem, path: Path | None, text: str, variables: Mapping[tuple[str | int, ...], str]
) -> ConfigError:
    loc, advice = problem
    for key, variable in variables.items():
        if loc[: len(key)] == key:
            return ConfigError(f"environment: {variable}: {advice}")
    return ConfigError(toml_files.located(path or "defaults", text, loc, advice))


def _contradictions(settings: Settings) -> Iterator[_Problem]:
    methods: dict[Key, tuple[str, ...]] = {("results", "methods"): settings.results.methods}
    for index, one in enumerate(settings.destinations):
        methods["destinations", index, "methods"] = one.methods or ()
    yield from method_problems(settings.model.method_folders, methods)
    broker = settings.broker
    if broker.soft_time_limit >= broker.hard_time_limit:
        yield ("broker", "soft_time_limit"), "must be less than hard_time_limit"
    if broker.visibility_timeout <= broker.hard_time_limit:
        yield ("broker", "visibility_timeout"), "must be more than hard_time_limit, or tasks run twice"
    if settings.study.max_seconds < settings.study.quiet_seconds:
        yield ("study", "max_seconds"), "must not be less than quiet_seconds"
    yield from _audit_contradictions(settings)
    for section, named in (("destinations", settings.destinations), ("rules", settings.rules)):
        names = [one.name for one in named]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield (section, index, "name"), "used twice; names must differ"
    known = {destination.name for destination in settings.destinations}
    for index, rule in enumerate(settings.rules):
        if not known.issuperset(rule.destinations or ()):
            yield (
                ("rules", index, "destinations"),
                f"unknown destination; there is: {', '.join(sorted(known)) or 'none'}",
            )


def _audit_contradictions(settings: Settings) -> Iterator[_Problem]:
    audit = settings.audit
    if audit.syslog_key is not None and audit.syslog_certificate is None:
        yield ("audit", "syslog_key"), "is the key of syslog_certificate, which is missing"
    if audit.syslog_host is None and (audit.syslog_ca or audit.syslog_certificate) is not None:
        key = "syslog_ca" if audit.syslog_ca is not None else "syslog_certificate"
        yield ("audit", key), "is for the server syslog_host, which is missing"
