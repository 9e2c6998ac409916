import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from rexnet.training.teachers import PENALTY, fit_classifier


def test_the_fitted_classifier_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    targets = np.repeat(np.arange(3), 30)
    features = random.normal(size=(90, 8)) + random.normal(size=(3, 8))[targets]
    features[:, 3] = 7.0  # a feature that tells nothing
    weight, bias = fit_classifier(torch.from_numpy(features).float(), torch.from_numpy(targets), num_classes=3)
    standard = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    # Its penalty is half a sum of squares beside C times a sum over the images.
    theirs = LogisticRegression(C=1 / (2 * PENALTY * len(targets)), max_iter=2000, tol=1e-8).fit(standard, targets)
    ours = features @ weight.double().numpy().T + bias.double().numpy()
    found, expected = (torch.from_numpy(each).softmax(1) for each in (ours, theirs.decision_function(standard)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_two_classes_are_classes_like_others():
    features = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
    weight, bias = fit_classifier(features, torch.tensor([0, 0, 1, 1]), num_classes=2)
    assert weight.shape == (2, 1) and bias.shape == (2,)
    assert (features @ weight.T + bias).argmax(1).tolist() == [0, 0, 1, 1]
