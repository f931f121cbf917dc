"""The trained parts of a benchmark, each resumable in a folder of its own: classifiers, generators, mask generator."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explain_core import plugins
from explain_core.bundles.bundle import load as load_bundle
from explain_core.classifier import Classifier, DecisionRule, need_gradients
from explain_core.engine import at_once, for_inference
from explain_core.errors import BundleError
from explain_core.explainer import BundleExplainer
from explain_core.generators.kinds import Generators, seen_by
from explain_core.method import Method
from explain_core.quality.faithfulness import randomised
from explain_core.second import Second
from training.benchmark.profiles import BUNDLE_ROW, FEATURE_ROWS, GENERATOR_ROWS, Profile
from training.cohort import TEST, TRAIN, VALIDATION, Cohort
from training.runs import generators, image_classifier, mask_generator, temperature
from training.runs.second_classifier import open_second

Say = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """What every stage of one benchmark shares.

    Attributes:
        profile: the settings.
        cohort: all images.
        out: the folder of this benchmark.
        device: where networks run.
        bundle: a model bundle whose classifier is explained instead of a trained one; None to train one.
        classifier_folder: an earlier run of `image_classifier` to explain instead; None to train one.
        second_folder: of `python -m training second`, or a bundle, for transfer; None to train one.
        say: told what is being done.
    """

    profile: Profile
    cohort: Cohort
    out: Path
    device: torch.device
    say: Say
    bundle: Path | None = None
    classifier_folder: Path | None = None
    second_folder: Path | None = None
    _methods: dict[tuple[str, str], Method] = field(default_factory=dict)

    @cached_property
    def training(self) -> Cohort:
        """Images for training."""
        return self.cohort.part(TRAIN)

    @cached_property
    def validation(self) -> Cohort:
        """Images that choose."""
        return self.cohort.part(VALIDATION)

    @cached_property
    def test(self) -> Cohort:
        """Images that are reported, and choose nothing."""
        return self.cohort.part(TEST)

    @cached_property
    def boxed(self) -> Cohort:
        """Test images whose lesions are marked, whatever the classifier says of them; at most `profile.boxed`."""
        marked = np.flatnonzero([truth is not None for truth in self.test.truths])
        return self.test.take(marked[: self.profile.boxed or None])

    @cached_property
    def rule(self) -> DecisionRule:
        """How the classifier's logits become a decision."""
        threshold = load_bundle(self.bundle).threshold if self.bundle else 0.5
        return DecisionRule(exclusive=self.cohort.exclusive, threshold=threshold)

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier that is explained, ready for inference."""
        network = self._trained
        return _ready(network, self.device) if isinstance(network, nn.Module) else network

    @cached_property
    def _trained(self) -> Classifier | nn.Module:
        """The same before batch norm is folded into its convolutions: what is randomised must keep its norms."""
        if self.bundle is not None:
            bundle = load_bundle(self.bundle)
            classifier, outputs = bundle.tempered(), len(bundle.description["classifier"]["outputs"])
            if self.cohort.exclusive and outputs != self.cohort.outputs:
                names = ", ".join(self.cohort.classes)
                raise BundleError(f"{self.bundle}: {outputs} outputs, and the data's classes are {names}")
            return classifier
        return self._trained_classifier("classifier", self.profile.classifier, self.classifier_folder)

    @cached_property
    def random_classifier(self) -> Classifier | None:
        """The classifier with all its parameters drawn anew, None where they are hidden."""
        network = self._trained
        if not isinstance(network, nn.Module) or not self.classifier.differentiable:
            return None
        whole: Any = network.to(self.device).float()
        drawn: Any = randomised(whole, calibration=floats(self.training.images[:64], self.device))
        return _ready(drawn, self.device)

    def network_of(self, classifier: Classifier | None) -> Any:
        """What tells one classifier from another: its weights, or the bundle's digest where they are hidden."""
        if isinstance(classifier, nn.Module):
            return classifier
        return load_bundle(self.bundle).identity.digest if self.bundle and classifier is not None else ""

    @cached_property
    def second(self) -> Classifier:
        """Another classifier of the same data from another seed, for transfer."""
        settings = replace(self.profile.classifier, seed=self.profile.classifier.seed + 1)
        return _ready(self._trained_classifier("second_classifier", settings, None), self.device)

    @cached_property
    def _given_second(self) -> Second | None:
        return open_second(self.second_folder, str(self.device)) if self.second_folder else None

    @cached_property
    def second_rule(self) -> DecisionRule:
        """How the second classifier's logits become a decision: of one finding at Youden's validation threshold."""
        labelled = self.validation.labelled()
        if self.rule.exclusive or len(np.unique(labelled.targets)) < len(labelled.classes):
            return self.rule
        logits = self.logits(labelled.images, self.second)
        probabilities = 1 / (1 + np.exp(-logits[:, 0]))
        return DecisionRule(threshold=temperature.youden(probabilities, labelled.targets))

    def second_decisions(self, images: Tensor) -> NDArray[np.int64]:
        """The second classifier's decisions about uint8 or float images, shape (N,)."""
        if self._given_second is not None:
            chunks = images.split(at_once(images, self.device))
            return np.concatenate([self._given_second.decide(floats(chunk, self.device)) for chunk in chunks])
        logits = torch.from_numpy(self.logits(images, self.second))
        return np.asarray(self.second_rule.decide(logits, torch.zeros(len(images), dtype=torch.long)).numpy())

    @property
    def second_mark(self) -> Any:
        """What tells one second classifier from another."""
        given = self._given_second
        return self.network_of(self.second) if given is None else (given.network, given.threshold, given.size)

    @cached_property
    def explainer(self) -> BundleExplainer:
        """The bundle as a node runs it.

        Raises:
            BundleError: the benchmark explains no bundle.
        """
        if self.bundle is None:
            raise BundleError("the delivered map is a bundle's; name one with --bundle")
        return BundleExplainer(load_bundle(self.bundle), device=str(self.device))

    def generated(self, network: Generators, images: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """(x_s, x_a) of float images, shape (N, 1, S, S), under decisions, shape (N,); clipped to [0, 1]."""
        with torch.no_grad():
            x_s, x_a = network(images, decisions, seen_by(network, self.classifier, images))
        return x_s.clamp(0, 1), x_a.clamp(0, 1)

    def _trained_classifier(
        self, name: str, settings: image_classifier.ImageClassifierSettings, folder: Path | None
    ) -> nn.Module:
        out = folder or self.out / name
        settings = replace(settings, device=str(self.device))
        if folder is not None:
            settings = image_classifier.settings_of(folder, self.training.labelled())
        else:
            out.mkdir(parents=True, exist_ok=True)
            self.say(f"training {name.replace('_', ' ')} ({settings.architecture}, {settings.epochs} epochs)")
            image_classifier.train(settings, self.training.labelled(), self.validation.labelled(), out)
        return image_classifier.trained(out, settings.architecture, self.cohort.outputs)

    def generators(self, row: str, classifier: Classifier, suffix: str = "") -> Generators:
        """The generators of a row of Table I, or on features, trained against `classifier`."""
        settings = self.profile.generator_settings(row)
        if self.rule.exclusive and settings.decisions > 1:
            settings = replace(settings, decisions=self.cohort.outputs)
        settings = replace(settings, rule=self.rule, device=str(self.device))
        out = self.out / f"generators{suffix}" / row
        out.mkdir(parents=True, exist_ok=True)
        self.say(f"training generators {row}{suffix} ({settings.steps} steps)")
        network = generators.train(
            settings,
            self.training.images,
            self.validation.images,
            _module(classifier, f"training {row}"),
            out,
            truths=self.validation.truths,
        )
        return for_inference(network, self.device)

    def masks(self, classifier: Classifier, suffix: str = "") -> nn.Module:
        """The mask generator, trained against `classifier`."""
        out = self.out / f"mask_generator{suffix}"
        out.mkdir(parents=True, exist_ok=True)
        settings = self.profile.mask_generator
        self.say(f"training mask generator{suffix} ({settings.steps} steps)")
        network = mask_generator.train(
            settings,
            self.training.images,
            self.validation.images,
            _module(classifier, "training mask_generator"),
            self.rule,
            min(1, self.cohort.outputs - 1),
            out,
        )
        return for_inference(network, self.device)

    def method(self, row: str, classifier: Classifier | None = None, suffix: str = "") -> Method:
        """The method of a row, its networks trained where it has any; `suffix` names another classifier's.

        Raises:
            GradientsNeeded: the row's networks cannot be trained on a classifier without gradients.
        """
        if (row, suffix) not in self._methods:
            self._methods[row, suffix] = self._make(row, classifier or self.classifier, suffix)
        return self._methods[row, suffix]

    def _make(self, row: str, classifier: Classifier, suffix: str) -> Method:
        if row in (*GENERATOR_ROWS, *FEATURE_ROWS, BUNDLE_ROW):
            name = "adversarial" if row == "adversarial_tv" else "similar_adversarial"
            plugin = plugins.load("explain_core.methods", name)
            network = self._bundled() if row == BUNDLE_ROW else self.generators(row, classifier, suffix)
            return _method(plugin, network=network, rule=self.rule)
        plugin = plugins.load("explain_core.methods", row)
        options: dict[str, Any] = dict(self.profile.slow.get(row, {}))
        if plugin.trained_by == "mask_generator":
            options["network"] = self.masks(classifier, suffix)
        if "rule" in plugin.__dataclass_fields__:
            options["rule"] = self.rule
        return _method(plugin, **options)

    def is_trained(self, row: str) -> bool:
        """Whether a row's method has networks of its own."""
        trained = row in (*GENERATOR_ROWS, *FEATURE_ROWS, BUNDLE_ROW)
        return trained or plugins.load(plugins.METHODS, row).trained_by is not None

    def _bundled(self) -> Generators:
        if self.bundle is None:
            raise BundleError(f"the row {BUNDLE_ROW} needs --bundle")
        return for_inference(load_bundle(self.bundle).with_generators(), self.device)

    def decisions(self, images: Tensor) -> Tensor:
        """y(x) of uint8 or float images, int64, shape (N,), on the CPU."""
        classes = torch.zeros(len(images), dtype=torch.long)
        return self.rule.decide(torch.from_numpy(self.logits(images)), classes)

    def logits(self, images: Tensor, classifier: Classifier | None = None) -> NDArray[np.float64]:
        """Logits of uint8 or float images in [0, 1], shape (N, outputs)."""
        network = classifier or self.classifier
        chunks = images.split(at_once(images, self.device))
        with torch.no_grad():
            return torch.cat([network(floats(chunk, self.device)).double().cpu() for chunk in chunks]).numpy()

    def classes(self, images: Tensor) -> NDArray[np.int64]:
        """The output explained for each image, shape (N,): the finding's, or the class decided for."""
        if not self.rule.exclusive:
            return np.zeros(len(images), np.int64)
        return np.asarray(self.logits(images).argmax(axis=1), np.int64)


def floats(images: Tensor, device: torch.device) -> Tensor:
    """uint8 images (0 to 255) or float images in [0, 1] as float32 in [0, 1], channels last, on `device`."""
    x = images.to(device)
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    return x.contiguous(memory_format=torch.channels_last)


def _method(plugin: Any, **options: Any) -> Method:
    method: Method = plugin(**options)
    return method


def _module(classifier: Classifier, what: str) -> nn.Module:
    need_gradients(classifier, what)
    assert isinstance(classifier, nn.Module)  # noqa: S101 - what has gradients is a module
    return classifier


def _ready(model: nn.Module, device: torch.device) -> Classifier:
    ready: Any = for_inference(model, device)
    return ready  # type: ignore[no-any-return]
