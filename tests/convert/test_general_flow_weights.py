"""General Flow's table of names: complete for every number of layers, and reversible."""

import jax
import numpy as np
import pytest

from t2p.convert.base import to_official, to_variables
from t2p.convert.general_flow import general_flow_rows, without_counters
from t2p.io import UserError
from t2p.models.general_flow import VARIANTS, GeneralFlow


def names(encoder, decoder, head):
    """Names of the autoencoder's hidden layers as a file has them: a Linear and an ELU in turn."""
    parts = {"enc_MLP": encoder, "dec_MLP": decoder, "pred_MLP_1": head, "pred_MLP_2": head}
    hidden = [f"cvae.cvae.{part}.{2 * i}.weight" for part, n in parts.items() for i in range(n)]
    return [*hidden, "cvae.cvae.pred_MLP_1.pred_head.weight", "cvae.cvae.pred_MLP_2.pred_head.weight"]


def random_variables(model):
    x = [np.zeros(s, np.float32) for s in ((1, 760, 3), (1, 760, 3), (1, 8, 3), (1, 512), (1, 8, 3, 3), (1, 8, 1))]
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *x, np.zeros((1, 8, 16), np.float32)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), dict(shapes))


@pytest.mark.parametrize(("variant", "layers"), [("S", (1, 1, 0)), ("B", (12, 2, 2))])
def test_there_and_back(variant, layers):
    settings = VARIANTS[variant] | {"width": 4, "hidden": 6, "encoder_layers": layers[0]}
    model = GeneralFlow(steps=3, **settings)
    variables = random_variables(model)
    rows = general_flow_rows(vars(model), reversed(names(*layers)))
    official = to_official(rows, variables)
    jax.tree.map(np.testing.assert_array_equal, to_variables(rows, official), variables)
    assert official["encoder.encoder.0.0.convs.0.0.weight"].shape == (4, 12, 1)
    assert official["encoder.encoder.4.0.convs.0.0.weight"].shape[1:] == (35, 1, 1)
    assert official["decoder.decoder.0.0.convs.1.1.running_var"].shape == (4,)
    last = official[f"cvae.cvae.enc_MLP.{2 * layers[0] - 2}.weight"]
    np.testing.assert_array_equal(last.T, variables["params"]["path_encoder"][f"layer_{layers[0] - 1}"]["kernel"])
    assert ("encoder.encoder.2.2.convs.convs.0.0.weight" in official) == (variant == "B")


def test_counters_are_left_out_and_other_numbers_of_layers_refused():
    assert list(without_counters({"a.num_batches_tracked": 3, "a.weight": 4})) == ["a.weight"]
    model = {**VARIANTS["B"], "text_hidden": (256, 64)}
    with pytest.raises(UserError, match=r"1 hidden layers in cvae\.cvae\.enc_MLP; the model has 2"):
        general_flow_rows(model, names(1, 2, 2))
