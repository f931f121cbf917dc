"""Settings from one TOML file and the environment; what is wrong is said in one line.

Precedence: environment (`DICOM_NODE_<SECTION>__<KEY>`), then the file, then the defaults.
Lists and tables in the environment are JSON; a list of plain words may be separated by commas. A variable that ends
with `__FILE` names a file that holds the value: a secret never stands in the environment.
Relative paths are relative to the working directory. Unknown keys are errors.
"""

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dicom_node.errors import ConfigError
from dicom_node.settings.answers import DestinationSettings, PeerSettings
from dicom_node.settings.callers import caller
from dicom_node.settings.methods import Key
from dicom_node.settings.methods import problems as method_problems
from dicom_node.settings.monitoring import problems as alert_problems
from dicom_node.settings.rule_tables import Section
from dicom_node.settings.sections import RetentionSettings, Settings
from dicom_node.watch import pulse
from explain_core import toml_files

ENV_PREFIX = "DICOM_NODE_"
FILE_SUFFIX = "__FILE"


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
        if not variable.startswith(ENV_PREFIX) or variable in {CONFIG_VARIABLE, pulse.VARIABLE}:
            continue
        path = tuple(variable.removeprefix(ENV_PREFIX).removesuffix(FILE_SUFFIX).lower().split("__"))
        if path in variables:
            raise ConfigError(f"environment: {variable}: {variables[path]} is set too; remove one of them")
        table: Any = data
        for part in path[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"environment: {variable}: set the whole of {path[0]} as JSON instead")
        table[path[-1]] = _value(variable, _content(variable, env[variable]))
        variables[path] = variable
    return variables


def _content(variable: str, text: str) -> str:
    if not variable.endswith(FILE_SUFFIX):
        return text
    try:
        return Path(text).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"environment: {variable}: {text} cannot be read: {why}") from None


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
    unknown = advice.startswith("unknown key")
    for key, variable in variables.items():
        if unknown and key[: len(loc)] == loc:
            return ConfigError(f"environment: {variable}: {_meant(variable)}")
        if loc[: len(key)] == key:
            return ConfigError(f"environment: {variable}: {advice}")
    return ConfigError(toml_files.located(path or "defaults", text, loc, advice))


def _meant(variable: str) -> str:
    """What to do about a variable that sets nothing."""
    known = [
        f"{ENV_PREFIX}{'__'.join((section, field.alias or key) if key else (section,))}".upper()
        for section, table in Settings.model_fields.items()
        for key, field in (
            type(table.default).model_fields.items() if isinstance(table.default, Section) else [("", table)]
        )
    ]
    close = difflib.get_close_matches(variable.removesuffix(FILE_SUFFIX), known, n=1)
    form = f"no setting has this name, which is {ENV_PREFIX}SECTION__KEY"
    return f"{form}; did you mean {close[0]}?" if close else form


def _ages(kept: RetentionSettings) -> Iterator[_Problem]:
    if kept.images_days and (not kept.results_days or kept.results_days > kept.images_days):
        yield ("retention", "results_days"), "must not be more than images_days: results go with their images at last"


def _contradictions(settings: Settings) -> Iterator[_Problem]:
    methods: dict[Key, tuple[str, ...]] = {("results", "methods"): settings.results.methods}
    for index, one in enumerate(settings.destinations):
        methods["destinations", index, "methods"] = one.methods or ()
    yield from method_problems(settings.model.method_folders, methods)
    yield from _ages(settings.retention)
    yield from _tls_problems(settings)
    broker = settings.broker
    if broker.soft_time_limit >= broker.hard_time_limit:
        yield ("broker", "soft_time_limit"), "must be less than hard_time_limit"
    if broker.visibility_timeout <= broker.hard_time_limit:
        yield ("broker", "visibility_timeout"), "must be more than hard_time_limit, or tasks run twice"
    if settings.study.max_seconds < settings.study.quiet_seconds:
        yield ("study", "max_seconds"), "must not be less than quiet_seconds"
    yield from _audit_contradictions(settings)
    yield from alert_problems(settings.alerts)
    for section, named in (("destinations", settings.destinations), ("rules", settings.rules)):
        names = [one.name for one in named]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield (section, index, "name"), "used twice; names must differ"
    yield from _commitment(settings)
    known = {destination.name for destination in settings.destinations}
    for index, rule in enumerate(settings.rules):
        if not known.issuperset(rule.destinations or ()):
            yield (
                ("rules", index, "destinations"),
                f"unknown destination; there is: {', '.join(sorted(known)) or 'none'}",
            )


def _tls_problems(settings: Settings) -> Iterator[_Problem]:
    node, tls = settings.node, settings.tls
    if (tls.certificate is None) != (tls.key is None):
        given, lacking = ("certificate", "key") if tls.key is None else ("key", "certificate")
        yield ("tls", given), f"set {lacking} too: a certificate is of no use without its private key"
    if tls.serves and tls.require_client_certificate and tls.authorities is None:
        yield ("tls", "certificate"), "set authorities too: without them no client certificate can be believed"
    if tls.revocations is not None and tls.authorities is None:
        yield ("tls", "revocations"), "set authorities too: the lists are checked with their certificates"
    if tls.serves and node.plain and node.port == tls.port != 0:
        yield ("tls", "port"), "is node.port; choose another, or set node.plain = false"
    if not node.plain and not tls.serves:
        yield ("node", "plain"), "nobody could send: set tls.certificate, tls.key and tls.authorities, or plain = true"
    sections: dict[str, Sequence[PeerSettings | DestinationSettings]] = {
        "destinations": settings.destinations,
        "commitment_peers": settings.commitment_peers,
    }
    for place, one in [((name, index), one) for name, peers in sections.items() for index, one in enumerate(peers)]:
        if one.tls and one.tls_authorities is None and tls.authorities is None:
            yield (*place, "tls"), "set tls.authorities, or tls_authorities here: whose certificates are believed"
        if not one.tls and (one.tls_authorities is not None or one.tls_name is not None):
            yield (*place, "tls_name" if one.tls_name else "tls_authorities"), "has no use without tls = true"


def _commitment(settings: Settings) -> Iterator[_Problem]:
    """Who commits must be able to say so, and a peer has one address."""
    callers = {caller(text).ae_title for text in settings.node.calling_ae_titles}
    for index, one in enumerate(settings.destinations):
        if one.commitment and not settings.node.accept_any_calling_ae and one.ae_title not in callers:
            advice = (
                f"add {one.ae_title!r} to node.calling_ae_titles: it calls this node to say what it has committed to"
            )
            yield ("destinations", index, "commitment"), advice
    titles = [one.ae_title for one in settings.commitment_peers]
    for index, title in enumerate(titles):
        if title in titles[:index]:
            yield ("commitment_peers", index, "ae_title"), "used twice; a peer has one address"


def _audit_contradictions(settings: Settings) -> Iterator[_Problem]:
    audit = settings.audit
    if audit.syslog_key is not None and audit.syslog_certificate is None:
        yield ("audit", "syslog_key"), "is the key of syslog_certificate, which is missing"
    if audit.syslog_host is None and (audit.syslog_ca or audit.syslog_certificate) is not None:
        key = "syslog_ca" if audit.syslog_ca is not None else "syslog_certificate"
        yield ("audit", key), "is for the server syslog_host, which is missing"
