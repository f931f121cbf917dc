"""Coded concepts of the results: the standard's where it has one, else those of the private scheme 99XAI."""

from pydicom import Dataset
from pydicom.sr.coding import Code

SCHEME = "99XAI"

DEVICE = Code("121007", "DCM", "Device")
ENGLISH = Code("en-US", "RFC5646", "English (United States)")
MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure Reported")
SOURCE_OF_MEASUREMENT = Code("121112", "DCM", "Source of Measurement")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
VISUAL_EXPLANATION = Code("130401", "DCM", "Visual explanation")
SPATIAL_RESAMPLING = Code("113085", "DCM", "Spatial resampling")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
OUTCOME = Code("111017", "DCM", "CAD Processing and Findings Summary")
WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")
WITH_FINDINGS = Code("111242", "DCM", "All algorithms succeeded; with findings")
NONE_SUCCEEDED = Code("111245", "DCM", "No algorithms succeeded; without findings")
PROBABILITY = Code("122157", "DCM", "Probability")
METHOD_CITATION = Code("121423", "DCM", "Method Citation")
COMMENT = Code("121106", "DCM", "Comment")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
CHEST_RADIOGRAPHY = Code("399208008", "SCT", "Plain chest X-ray")
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
LUNG = Code("39607008", "SCT", "Lung")
CHEST = Code("816094009", "SCT", "Chest")
OPACITY = Code("112001", "DCM", "Opacity")
PRESENT = Code("52101004", "SCT", "Present")
ABSENT = Code("2667000", "SCT", "Absent")
YES = Code("373066001", "SCT", "Yes")
NO = Code("373067005", "SCT", "No")
PERCENT = Code("%", "UCUM", "Percent")
UNITY = Code("1", "UCUM", "no units")

DECISION = Code("decision", SCHEME, "Classifier decision")
THRESHOLD = Code("threshold", SCHEME, "Decision threshold")
SIMILAR_PROBABILITY = Code("p-similar", SCHEME, "Probability of the similar image")
ADVERSARIAL_PROBABILITY = Code("p-adversarial", SCHEME, "Probability of the adversarial image")
DECISION_CHANGED = Code("decision-changed", SCHEME, "Adversarial image crosses the decision threshold")
SALIENT_AREA = Code("salient-area", SCHEME, "Salient part of the image area")
HEATMAP_MAXIMUM = Code("heatmap-maximum", SCHEME, "Maximum of the heatmap")
HEATMAP_SCALE = Code("heatmap-scale", SCHEME, "Scale of the heatmap")
COVERAGE = Code("coverage", SCHEME, "Part of the image that was examined")
METHOD = Code("method", SCHEME, "Explanation method")

_FINDINGS = {"lung opacity": (OPACITY, LUNG), "opacity": (OPACITY, LUNG)}


def finding(label: str) -> tuple[Code, Code]:
    """What the classifier looks for, and where: in the standard's terms if they are known for `label`."""
    return _FINDINGS.get(label.strip().lower(), (Code(slug(label), SCHEME, label[:64]), CHEST))


def slug(text: str) -> str:
    """`text` as a code value; highdicom makes more than 16 characters a Long Code Value."""
    return "-".join(text.lower().replace("_", " ").split()) or "unnamed"


def item(code: Code) -> Dataset:
    """`code` as an item of a code sequence."""
    dataset = Dataset()
    dataset.CodeValue = code.value
    dataset.CodingSchemeDesignator = code.scheme_designator
    dataset.CodeMeaning = code.meaning
    return dataset


def scheme() -> Dataset:
    """The private scheme as an item of Coding Scheme Identification Sequence."""
    dataset = Dataset()
    dataset.CodingSchemeDesignator = SCHEME
    dataset.CodingSchemeName = "Explanations of classifiers"
    dataset.CodingSchemeResponsibleOrganization = "DICOM explanation node"
    return dataset
