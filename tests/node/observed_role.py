"""One role as `dicom-node serve --only ROLE` runs it, with the toy for a model: python observed_role.py ROLE CONFIG."""

import sys
from pathlib import Path

from toy_explainer import ToyExplainer

from dicom_node import app
from dicom_node.settings.loading import load_settings

if __name__ == "__main__":
    app.load_explainer = lambda *_, **__: ToyExplainer()
    app.run_role(sys.argv[1], load_settings(Path(sys.argv[2])), Path(sys.argv[2]))
