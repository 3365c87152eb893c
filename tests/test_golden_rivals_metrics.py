"""Misclassification, other data sets and missing modalities, by the 2026 benchmark's own functions (same files)."""
import numpy as np
import pytest
import torch
from golden_rules import close, fill
from test_golden_rivals import FOLDER, NAMES

from moosa.evaluation.misclassification import misclassification, out_of_distribution
from moosa.methods.model import fused_head, joined

FILE = np.load(FOLDER/"metrics.npz")
OURS = {"accuracy": "acc", "AURC": "aurc", "E-AURC": "eaurc", "AUROC": "auroc", "FPR95-nearest": "fpr95",
        "AUPR-success": "aupr_success", "AUPR-error": "aupr_error"}


@pytest.mark.parametrize("name", map(str, FILE["misd_names"]))
def test_misclassification(name):
    at = f"misd/{name}/"
    confidence = FILE[f"{at}conf"]
    probability = torch.from_numpy(FILE[f"{at}logits"]).softmax(dim=1)
    close(probability.amax(dim=1), confidence)
    right = probability.argmax(dim=1).numpy() == FILE[f"{at}labels"]
    found = misclassification(confidence, right)
    both = 0 < right.sum() < len(right)
    # where all is right, or all wrong, the reference has numbers that mean nothing, such as FPR95 0
    for ours, theirs in OURS.items() if both else list(OURS.items())[:4]:
        np.testing.assert_allclose(found[ours], FILE[at + theirs], rtol=0, atol=1e-12, err_msg=ours)
    if both: np.testing.assert_allclose(found["FPR95"], 1 - FILE[f"{at}tnr95"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", map(str, FILE["ood_names"]))
def test_out_of_distribution(name):
    inside, outside = (torch.from_numpy(FILE[f"ood/{name}/{side}_logits"]).softmax(dim=1).amax(dim=1).numpy()
                       for side in ("id", "ood"))
    found = out_of_distribution(inside, outside)
    for ours, theirs in {"AUROC": "auroc", "FPR95": "fpr95", "AUPR-in": "aupr_in", "AUPR-out": "aupr_out"}.items():
        np.testing.assert_allclose(found[ours], FILE[f"ood/{name}/{theirs}"], rtol=0, atol=1e-12, err_msg=ours)


@pytest.mark.parametrize("case", ["VA", "VF", "AF", "VAF"])
def test_missing_modalities_are_zeros(case):
    embeddings = {NAMES[m]: torch.from_numpy(FILE[f"missing/{case}/{m}_emd"]) for m in case.lower()}
    head = fused_head(sum(e.shape[1] for e in embeddings.values()), 7, 20).eval()
    fill(head, "mlp_cls.enc_net.")
    for m in ("none", *case.lower()):
        seen = {name: e*(name != NAMES.get(m)) for name, e in embeddings.items()}
        with torch.no_grad(): close(head(joined(seen)), FILE[f"missing/{case}/zero_{m}/logits"])
