"""The conformance statement (PS3.2), made from the tables that the code itself uses and from objects that it builds."""

from conformance import acceptor, example, objects, overview, requestor, surroundings, terms
from explain_core import plugins


def result_sop_classes() -> dict[str, tuple[str, ...]]:
    """SOP Classes that this node sends, by the name of the result object; imports the builders."""
    return {
        name: tuple(str(uid) for uid in plugins.load(example.RESULTS, name).sop_class_uids)
        for name in plugins.available(example.RESULTS)
    }


def render() -> str:
    """The conformance statement (PS3.2) as Markdown: the whole of docs/conformance.md."""
    sent, built = result_sop_classes(), example.built()
    lines = [
        *overview.overview(sent),
        *overview.model(),
        *acceptor.render(),
        *requestor.render(sent),
        *surroundings.render(),
        "# 8 Annexes",
        "",
        "## 8.1 IOD contents",
        "",
        *objects.render(built),
        *terms.render(built, example.refused()),
        "",
        *surroundings.tolerance(),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


__all__ = ["render", "result_sop_classes"]
