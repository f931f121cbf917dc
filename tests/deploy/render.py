"""Renders the chart as Helm does, in a process of its own: python render.py CHART < values, one JSON a line.

Helm's own code, as a library; it is Go, whose runtime takes signal handlers that other tests need. A line that begins
as JSON with the manifests by file, or with why there are none, follows each line of values.
"""

import json
import sys

import helm_python as helm


def answer(said):
    sys.stdout.write(json.dumps(said) + "\n")


RELEASE = {"name": "node", "namespace": "radiology", "is_upgrade": True}

with helm.Chart.load(sys.argv[1]) as chart:
    findings = helm.lint(sys.argv[1], strict=True)["messages"]
    answer([one for one in findings if one["severity"] > 1])
    for line in sys.stdin:
        try:
            values = json.loads(line)
            chart.validate_schema(chart.merge_values(values))
            answer({"manifests": chart.render(values, **RELEASE)})
        except helm.HelmError as error:
            answer({"refused": str(error)})
