"""Coded concepts of the results: the standard's where it has one, else those of the private scheme 99XAI."""

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_node.errors import Reason
from explain_core.zones import OUTSIDE

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
SOME_WITHOUT_FINDINGS = Code("111243", "DCM", "Not all algorithms succeeded; without findings")
SOME_WITH_FINDINGS = Code("111244", "DCM", "Not all algorithms succeeded; with findings")
NONE_SUCCEEDED = Code("111245", "DCM", "No algorithms succeeded; without findings")
PROBABILITY = Code("122157", "DCM", "Probability")
METHOD_CITATION = Code("121423", "DCM", "Method Citation")
COMMENT = Code("121106", "DCM", "Comment")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
CHEST_RADIOGRAPHY = Code("399208008", "SCT", "Plain chest X-ray")
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
LUNG = Code("39607008", "SCT", "Lung")
CHEST = Code("816094009", "SCT", "Chest")
LATERALITY = Code("272741003", "SCT", "Laterality")
SIDES = {"right": Code("24028007", "SCT", "Right"), "left": Code("7771000", "SCT", "Left")}
"""PS3.16 CID 244."""
ZONES = {
    "upper": Code("281392002", "SCT", "Upper zone of lung"),
    "middle": Code("281393007", "SCT", "Middle zone of lung"),
    "lower": Code("281394001", "SCT", "Lower zone of lung"),
    OUTSIDE: Code("outside-lungs", SCHEME, "Outside the lungs"),
}
"""PS3.16 CID 6171, and what is in none of them."""
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
CONTROL_PROBABILITY = Code("p-control", SCHEME, "Probability of the control image, changed without an aim")
CONTROL_CHANGED = Code("control-changed", SCHEME, "Control image crosses the decision threshold")
SECOND_CHANGED = Code("second-changed", SCHEME, "Adversarial image changes the second classifier's decision")
SECOND_PROBABILITY = Code("p-second", SCHEME, "Probability by a second classifier")
SECOND_THRESHOLD = Code("second-threshold", SCHEME, "Decision threshold of the second classifier")
SECOND_SIMILAR = Code("p-second-similar", SCHEME, "Second classifier's probability of the similar image")
SECOND_ADVERSARIAL = Code("p-second-adverse", SCHEME, "Second classifier's probability of the adversarial image")
SECOND_CONTROL = Code("p-second-control", SCHEME, "Second classifier's probability of the control image")
SIMILAR_KEPT = Code("decision-kept", SCHEME, "Similar image keeps the decision")
MARGIN = Code("margin", SCHEME, "Uncertain within")
NEAR_THRESHOLD = Code("near-threshold", SCHEME, "Decision is near the threshold")
DISTANCE = Code("distance", SCHEME, "Distance from the training data")
DISTANCE_LIMIT = Code("distance-limit", SCHEME, "Limit of this distance")
FAR = Code("far", SCHEME, "Image is far from the training data")
DELETION = Code("deletion", SCHEME, "Deletion score of the heatmap")
NOT_ANALYSED = Code("not-analysed", SCHEME, "Not analysed because")
OUTLINED_AREA = Code("outlined-area", SCHEME, "Part of the image area with half of the evidence")
EVIDENCE_SITE = Code("evidence-site", SCHEME, "Evidence lies in")
HEATMAP_MAXIMUM = Code("heatmap-maximum", SCHEME, "Maximum of the heatmap")
HEATMAP_SCALE = Code("heatmap-scale", SCHEME, "Scale of the heatmap")
COVERAGE = Code("coverage", SCHEME, "Part of the image that was examined")
METHOD = Code("method", SCHEME, "Explanation method")

REASONS = {
    Reason.RULES: Code("rules", SCHEME, "Not chosen by the routing rules"),
    Reason.MODALITY: Code("modality", SCHEME, "Not a plain radiograph"),
    Reason.BODY_PART: Code("body-part", SCHEME, "Not the chest"),
    Reason.VIEW: Code("view", SCHEME, "Not a frontal view"),
    Reason.PATIENT: Code("patient", SCHEME, "Of another patient than the study"),
    Reason.FRAMES: Code("frames", SCHEME, "More than one frame"),
    Reason.COLOUR: Code("colour", SCHEME, "Colour image"),
    Reason.RAW: Code("raw", SCHEME, "Image for processing"),
    Reason.DERIVED: Code("derived", SCHEME, "Made from another image"),
    Reason.SIZE: Code("size", SCHEME, "Too few or too many pixels"),
    Reason.BLANK: Code("blank", SCHEME, "Blank image"),
    Reason.PIXELS: Code("pixels", SCHEME, "Pixel data missing, damaged or wrongly described"),
    Reason.SYNTAX: Code("syntax", SCHEME, "Unknown transfer syntax"),
    Reason.UNREADABLE: Code("unreadable", SCHEME, "Data set cannot be read"),
    Reason.MODEL: Code("model", SCHEME, "Nothing that the model can use"),
    Reason.FAILED: Code("failed", SCHEME, "Analysis failed"),
}
"""Why an image is not analysed."""

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


SYNTHESIZING_EQUIPMENT = Code("109100", "DCM", "Synthesizing Equipment")
SPATIAL_CONCEPT = Code("309825002", "SCT", "Spatial and Relational Concept")
GRADIENT_WEIGHTED_CLASS_ACTIVATION = Code("130403", "DCM", "Gradient-weighted class activation")
SALIENCY = Code("130404", "DCM", "Saliency")
PIXEL_SUBTRACTION = Code("113062", "DCM", "Pixel by pixel subtraction")
OF_INTEREST = Code("113000", "DCM", "Of Interest")
SIMILAR_IMAGE = Code("similar-image", SCHEME, "Image synthesized to keep the decision")
ADVERSARIAL_IMAGE = Code("adversarial", SCHEME, "Image synthesized to change the decision")
