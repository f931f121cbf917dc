"""Traces: one for each study revision, without a word between the processes; none, and nothing loaded, by default."""

import subprocess
import sys
from contextlib import suppress
from datetime import timedelta

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from working import T0, at, free_port

from dicom_node.errors import ConfigError
from dicom_node.watch import traces
from dicom_node.watch.stages import Stage, listening, stage


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    traces.use(exporter, "test")

    def finished():
        traces._provider.force_flush()
        return exporter.get_finished_spans()

    yield finished
    traces.stop()


def times(name, began, ended):
    return Stage(name=name, began_at=at(began), ended_at=at(ended))


def tell():
    """What three processes tell of a study, in an order that nobody planned."""
    traces.delivered("1.2", 1, at(9), at(10), destination="pacs", objects=3)
    traces.explained("1.2", 1, at(2), [times("decode", 4, 5), times("total", 4, 8)], task="t")
    traces.received("1.2", 1, at(0), at(2), instances=1)


def test_a_study_revision_has_one_trace_and_another_has_another(spans):
    tell()
    traces.received("1.2", 2, at(20), at(22))
    found = {(one.name, one.context.trace_id): one for one in spans()}
    first, second = traces.trace_id("1.2", 1), traces.trace_id("1.2", 2)
    assert {name for name, trace in found if trace == first} == {"receive", "wait", "explain", "decode", "deliver"}
    assert {name for name, trace in found if trace == second} == {"receive"}
    root, explain = found["receive", first], found["explain", first]
    assert root.parent is None
    assert all(found[name, first].parent.span_id == root.context.span_id for name in ("wait", "explain", "deliver"))
    assert found["decode", first].parent.span_id == explain.context.span_id
    assert (explain.start_time, explain.end_time) == tuple(int(one.timestamp()) * 10**9 for one in (at(4), at(8)))
    assert found["wait", first].attributes["dicom_node.study"] == "1.2"


def test_a_clock_that_was_set_back_makes_no_span_that_ends_before_it_begins(spans):
    traces.received("1.2", 1, at(5), at(1))
    (one,) = spans()
    assert one.end_time == one.start_time


def test_without_an_endpoint_nothing_is_loaded_and_nothing_is_told():
    program = (
        "import sys\nfrom dicom_node.clock import utc_now as now\nfrom dicom_node.watch import traces\n"
        "traces.start(None, 'worker')\ntraces.received('1.2', 1, now(), now())\ntraces.stop()\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_collector_that_is_away_costs_nothing_but_the_trace():
    traces.start(f"http://127.0.0.1:{free_port()}/v1/traces", "test")
    assert traces.running()
    tell()
    traces.stop()
    assert not traces.running()


def test_a_missing_extra_is_said_with_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"pip install -c constraints.txt \"\.\[tracing\]\""):
        traces.start("http://127.0.0.1:1/v1/traces", "test")


def test_stages_are_told_to_whoever_listens_and_cost_nothing_where_nobody_does():
    with stage("unheard"):
        pass
    with listening() as found:
        with stage("first"):
            pass
        with suppress(ValueError), stage("broken off"):
            raise ValueError
    assert [one.name for one in found] == ["first", "broken off"]
    assert all(one.ended_at >= one.began_at for one in found)
    assert Stage(name="x", began_at=T0, ended_at=T0 - timedelta(seconds=9)).seconds == 0
