"""Runs in MLServer's environment: train two versions of a model, which disagree.

usage: train.py FOLDER      writes v1.joblib, v2.joblib, and expected.json: flowers and what each version calls them
"""

import json
import sys
from pathlib import Path

import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

folder = Path(sys.argv[1])
flowers, kinds = load_iris(return_X_y=True)
versions = {
    "v1": DecisionTreeClassifier(max_depth=1, random_state=0),  # one split: it cannot name the third kind
    "v2": LogisticRegression(max_iter=1000),
}
samples = flowers[::10]
expected = {"samples": samples.tolist()}
for name, model in versions.items():
    model.fit(flowers, kinds)
    joblib.dump(model, folder / f"{name}.joblib")
    expected[name] = model.predict(samples).tolist()
(folder / "expected.json").write_text(json.dumps(expected))
