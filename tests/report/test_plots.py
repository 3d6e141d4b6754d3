"""What the pictures show."""

import numpy as np
import pytest

from precondlab.dynamics import TrainingCurve
from precondlab.report import draw_prediction, style


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
