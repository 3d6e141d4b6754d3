"""What the pictures show."""

import numpy as np
import pytest
import torch

from precondlab.dynamics import TrainingCurve, modes
from precondlab.operators import Diagonal
from precondlab.report import draw_modes, draw_prediction, style


@pytest.mark.parametrize("logx", [False, True])
def test_the_picture_of_a_prediction_marks_where_training_leaves_it(logx):
    loss = 0.5 ** np.arange(6)
    upper = np.array([*loss[:3], *loss[3:5] * 2, np.inf])
    curve = TrainingCurve(loss, loss, upper, 3, 3)
    with style() as plt:
        axes = draw_prediction(plt.subplots()[1], curve, [*loss[:4], 1.0], logx=logx)
        labels = axes.get_legend_handles_labels()[1]
        assert labels == ["measured", "predicted", "no longer linear: step 4"]
        assert axes.lines[2].get_xdata()[0] == (5 if logx else 4)
        still = draw_prediction(plt.subplots()[1], curve, loss[:3])
        assert [line.get_label() for line in still.lines] == ["measured", "predicted"]
        plt.close("all")


def test_the_picture_of_the_modes_marks_those_that_moved():
    first = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    r = torch.ones(3, dtype=torch.float64)
    left = modes(
        Diagonal(2 * first), r * torch.tensor([0.0, 0.25, 2.0]), Diagonal(first), r, steps=1, learning_rate=1.0
    )
    with style() as plt:
        axes = draw_modes(plt.subplots()[1], left)
        lines = {line.get_label(): line for line in axes.lines}
        assert list(lines) == ["start", "predicted", "now", "now, beyond", "now, short"]
        np.testing.assert_allclose(lines["predicted"].get_ydata()[1:], [0.75, 0.9375])
        for label, mode, value in (("now, beyond", 1, 0.25), ("now, short", 2, 2.0)):
            np.testing.assert_allclose([lines[label].get_xdata(), lines[label].get_ydata()], [[mode], [value]])
        np.testing.assert_allclose(axes.figure.axes[1].lines[0].get_ydata(), 4)
        plt.close("all")
