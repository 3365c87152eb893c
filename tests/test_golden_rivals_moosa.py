"""MOOSA as the 2026 benchmark's code computes it: weights and cross entropies averaged over the batch (same files)."""
import pytest
import torch
from golden_rules import close, no_dropout
from test_golden_rivals import CASES, NAMES, Golden, check_inputs, dims_of, leaf_case

from moosa.methods.catalogue import MoosaHyper
from moosa.methods.entropy import entropy_weights
from moosa.methods.moosa import moosa
from moosa.pretext.jigsaw import Jigsaw, unrank_permutation


@pytest.mark.parametrize("case", CASES)
def test_moosa_with_mean_weights(case, monkeypatch):
    golden, letters = Golden("moosa_bench", case), {name: letter for letter, name in NAMES.items()}
    outputs, parts = leaf_case(golden), 2*len(golden.order)
    hyper = MoosaHyper(entropy_min_weight=.01, jigsaw_num_splits=2, jigsaw_samples=len(golden["jig_indices"]),
                       trans_hidden_num=28, hidden_dim=40, out_dim=12, jigsaw_hidden=26, batch_mean_weights=True)
    objective = moosa(dims_of(outputs), hyper, seed=0)
    orders = [unrank_permutation(int(i), parts) for i in golden["jig_indices"]]
    task = objective.terms["jigsaw"].task = Jigsaw(dims_of(outputs), orders, 2, hidden=26)
    no_dropout(objective)
    golden.fill(task.head, "jigsaw_cls.enc_net.")
    for name, net in objective.terms["translation"].task.translators.items():
        golden.fill(net, "mlp_{}2{}.enc_net.".format(*(letters[m] for m in name.split("2"))))
    for m, net in objective.terms["contrastive"].projections.items(): golden.fill(net.head, f"{letters[m]}_proj.head.")
    masks = {NAMES[m]: golden.tensor(f"mask_{m}").bool() for m in golden.order}
    monkeypatch.setattr("moosa.pretext.translation.draw_masks", lambda embeddings, ratio: masks)
    total, values = objective(outputs, golden.tensor("labels"))
    total.backward()
    for ours, theirs in dict(classification="cls_weighted", jigsaw="loss_jigsaw", translation="trans_mean",
                             contrastive="loss_contrast", split_distance="split_distance").items():
        close(values[ours], golden[theirs])
    close(.01*values["entropy_min"], golden["loss_ent_min"])
    with torch.no_grad(): close(entropy_weights(outputs.heads), golden["ent_weights"])
    close(total, golden["total"])
    check_inputs(golden, outputs)
    golden.check_gradients()
    golden.check_buffers()
