"""A node with a registry of toy bundles: small files with checksums that a toy model stands for."""

import shutil
from pathlib import Path

from toy_explainer import ToyExplainer
from working import at

from dicom_node.errors import ConfigError
from dicom_node.explain.running_model import RunningModel
from dicom_node.models import promotion
from dicom_node.settings.loading import load_settings
from dicom_node.storage import bundles
from dicom_node.storage.ledger import Ledger
from explain_core.bundles import files
from explain_core.bundles.registry import Registry
from explain_core.errors import BundleError
from explain_core.explanation import ModelIdentity

AWAY = Registry("http://127.0.0.1:9", "chest", Path("unused"))


SCALE = "full_scale = 1.0\nunit = 'x'\n"


def bundle(folder: Path, version: str, method: str = "similar_adversarial") -> Path:
    """A bundle of the toy: files with checksums, a name and the scale of one method."""
    folder.mkdir(parents=True)
    for name in ("classifier.safetensors", "generators.safetensors", "model_card.md"):
        (folder / name).write_bytes(f"{name} {version}".encode())
    described = f'name = "toy"\nversion = "{version}"\n[heatmap.{method}]\n{SCALE}'
    (folder / "bundle.toml").write_text(described)
    files.write_sums(folder)
    return folder


def toy(folder: Path, kind=ToyExplainer):
    """What `load_explainer` does, for a bundle of the toy."""
    try:
        digest = files.verify(folder)
    except BundleError as error:
        raise ConfigError(f"model.store: {error}") from error
    name, version = bundles.described(folder)
    made = kind()
    object.__setattr__(made, "identity", ModelIdentity(name=name, version=version, digest=digest))
    return made


class Site:
    """A ledger, a registry with toy bundles and an empty store."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        shutil.copy(database, folder / "mlflow.sqlite")
        config = folder / "node.toml"
        config.write_text(
            f'[node]\ndatabase = "sqlite:///{folder}/ledger.sqlite"\nspool = "{folder}/spool"\n'
            f'[audit]\nfolder = "{folder}/audit"\n'
            f'[model]\nstore = "{folder}/models"\nbundle = "{bundle(folder / "configured", "0")}"\n'
            f'[registry]\nuri = "sqlite:///{folder}/mlflow.sqlite"\nartifacts = "{folder}/artifacts"\n'
        )
        self.config = config
        self.settings = load_settings(config, {})
        self.ledger = Ledger(self.settings.node.database)
        self.ledger.create()
        self.registry = promotion.open_registry(self.settings)

    def version(self, name: str, gate: str = "passed", **lineage: str):
        """Compared with the version that was registered before it; the first one with the configured bundle."""
        before = self.registry.versions()
        parent = before[-1].digest if before else files.verify(self.settings.model.bundle)
        lineage = {"parent_digest": parent} | lineage
        return self.registry.register(bundle(self.folder / name, name), gate=gate, lineage=lineage, metrics={})

    def runs(self) -> str:
        """Digest of the champion."""
        return bundles.check(self.settings, self.ledger.deployed("champion"))

    def promote(self, number: int, **more):
        values = {"by": "ada", "now": at(0)} | more
        return promotion.promote(self.settings, self.ledger, self.registry, number, **values)

    def rollback(self, registry=AWAY):
        return promotion.rollback(self.settings, self.ledger, registry, by="ada", now=at(9))

    def follow(self) -> list[str]:
        return promotion.follow(self.settings, self.ledger, self.registry, self.registry.versions())

    def aliases(self) -> dict[int, set[str]]:
        return {one.number: set(one.aliases) for one in self.registry.versions() if one.aliases}

    def running(self, load=toy) -> RunningModel:
        folder = self.settings.model.bundle
        return RunningModel(self.settings, self.ledger, lambda path: load(path or folder))
