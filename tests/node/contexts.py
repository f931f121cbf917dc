"""What result builders are given, made from one or several data sets with the toy model; and what validators say."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from radiographs import encode, study_of, synthetic, task_for
from toy_explainer import TOY_MODEL, ToyExplainer

from dicom_node.dicom import pixels
from dicom_node.errors import Reason
from dicom_node.explain import building, pipeline
from dicom_node.results import (
    AssessedImage,
    ExplainedImage,
    Refusal,
    ResultContext,
    ResultOptions,
    SourceReference,
    StudyContext,
)
from dicom_node.results.header import header_of
from explain_core import plugins
from explain_core.explanation import Morph

DCIODVFY = Path(sys.executable).parent / "dciodvfy"


def film(stored=None, *, bits=12, **changes):
    """A radiograph shown over its whole range: ToyExplainer is positive, and its adversarial image is not."""
    window = {"WindowCenter": str(1 << (bits - 1)), "WindowWidth": str(1 << bits)}
    return synthetic(stored, bits=bits, **window | changes)


source_of = SourceReference.of


def context_of(ds, *, explainer=None, options=None, **changes):
    """The context of one explained image."""
    study, _ = study_of(ds)
    explainer = explainer or ToyExplainer()
    rendering, source, header = pixels.render(ds), source_of(ds), header_of(ds)
    explanations = explainer.explain(rendering.radiograph, ["similar_adversarial"])
    image = ExplainedImage(
        source=source,
        header=header,
        assessment=explanations[0].assessment,
        radiograph=rendering.radiograph,
        greys=rendering.greys,
        explanations=explanations,
    )
    values = {
        "task": task_for(study),
        "header": header,
        "sources": (source,),
        "model": explainer.identity,
        "options": options or ResultOptions(),
        "number": 1,
        "image": image,
        "explanation": explanations[0],
    }
    return ResultContext(**values | changes)


def study_context(*images, assessed=(), refused=(), **changes):
    """The context of a study of explained images (ResultContext), and of what else there is in it."""
    first = images[0]
    values = {
        "task": first.task,
        "header": first.header,
        "sources": (
            *(source for image in images for source in image.sources),
            *(one.source for one in assessed),
            *(source for refusal in refused for source in refusal.sources),
        ),
        "model": first.model,
        "options": first.options,
        "number": first.number,
        "earlier": first.earlier,
        "images": images,
        "assessed": tuple(assessed),
        "refused": tuple(refused),
    }
    return StudyContext(**values | changes)


def assessed_of(ds, explainer=None):
    """An image with a decision and no explanation."""
    assessment = (explainer or ToyExplainer()).classify(pixels.radiograph(ds))
    return AssessedImage(source=source_of(ds), header=header_of(ds), assessment=assessment)


def refused_study(ds, reason="it is a lateral view", **changes):
    """The context of a study of which nothing was analysed."""
    study, _ = study_of(ds)
    values = {
        "task": task_for(study),
        "header": header_of(ds),
        "sources": (source_of(ds),),
        "model": TOY_MODEL,
        "options": ResultOptions(),
        "number": 1,
        "refused": (Refusal(sources=(source_of(ds),), reason=reason, code=Reason.VIEW),),
    }
    return StudyContext(**values | changes)


def built(builder, ds_or_context, **more):
    """The one data set that `builder` makes of one image."""
    context = ds_or_context if isinstance(ds_or_context, ResultContext) else context_of(ds_or_context, **more)
    (made,) = builder.build(study_context(context))
    return made


def every(*datasets, explainer=None, options=None, earlier=(), kinds=None, **task):
    """Everything that the node makes of a study: (kind, data set), all objects unless `kinds` says which."""
    study, read = study_of(*datasets)
    options = replace(options or ResultOptions(), objects=tuple(kinds or plugins.available(building.RESULTS)))
    toy, methods = explainer or ToyExplainer(), options.methods
    analysis = pipeline.analyse(task_for(study, **task), study, read, toy, methods=methods)
    made = [(one.kind, one.dataset) for one in building.build(analysis, options, earlier=earlier) if not one.standby]
    if "morphs" in options.objects and analysis.explained:  # the toy applies no attributes: these are made up
        first = min(datasets, key=lambda ds: str(ds.SOPInstanceUID))
        frames = with_morphs(context_of(first, explainer=toy, options=options, task=task_for(study, **task)))
        made.append(("morphs", built(plugins.load(building.RESULTS, "morphs"), frames)))
    return made


def errors_of(ds, folder):
    """What dciodvfy calls an error."""
    assert DCIODVFY.is_file(), "dciodvfy is missing: pip install '.[dev]'"
    path = folder / "object.dcm"
    path.write_bytes(encode(ds))
    found = subprocess.run([DCIODVFY, path], capture_output=True, text=True, check=False, errors="replace")
    lines = (found.stdout + found.stderr).splitlines()
    assert lines, "dciodvfy names at least the IOD"
    return [line for line in lines if line.startswith("Error")]


def items(ds):
    """Every content item of an SR, depth first."""
    for item in ds.get("ContentSequence", ()):
        yield item
        yield from items(item)


def said(ds, code):
    """Values of the content items named `code`."""
    values = []
    for item in items(ds):
        name = item.get("ConceptNameCodeSequence")
        if name and name[0].get("CodeValue") == code.value:
            if item.ValueType == "CODE":
                values.append(item.ConceptCodeSequence[0].CodeValue)
            elif item.ValueType == "NUM":
                values.append(float(item.MeasuredValueSequence[0].NumericValue))
            elif item.ValueType == "TEXT":
                values.append(item.TextValue)
    return values


def with_morphs(context, count=2):
    """The context with an image that darkens along each attribute."""
    seen = context.explanation.seen
    parts = (0.0, 0.5, 1.0)
    morphs = tuple(
        Morph(
            name=f"opacity {number + 1}",
            parts=parts,
            images=np.stack([seen * np.float32(1 - part / 2) for part in parts]),
            probabilities=(0.9, 0.6, 0.2),
        )
        for number in range(count)
    )
    return replace(context, explanation=replace(context.explanation, morphs=morphs))
