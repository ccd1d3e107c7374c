"""Numbers of independent implementations for `relora::bayesian`: prints relora/tests/fixtures/bayesian.json.

    python -m venv venv && venv/bin/pip install scikit-learn==1.9.1 scipy==1.17.1 mpmath==1.4.1
    venv/bin/python docs/checks/bayesian.py > relora/tests/fixtures/bayesian.json
"""

import json
import warnings

import mpmath
import numpy as np
from scipy.optimize import minimize
from scipy.stats import norm, qmc
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel

warnings.filterwarnings("ignore")
JITTER = 1e-10


def process(inputs, targets, length_scales, noise):
    """scikit-learn's regressor with the same mean, covariance and standardisation."""
    kernel = Matern(length_scale=length_scales, nu=2.5) + WhiteKernel(noise_level=noise)
    regressor = GaussianProcessRegressor(kernel, alpha=JITTER, optimizer=None, normalize_y=True)
    return regressor.fit(inputs, targets)


def predictions(regressor, points, length_scales, targets):
    """Mean and variance of the function itself: scikit-learn's variance includes the white noise."""
    mean, deviation = regressor.predict(points, return_std=True)
    noise = regressor.kernel_.k2.noise_level * np.var(targets)
    return mean.tolist(), (deviation**2 - noise).tolist()


def posterior(theta, inputs, targets):
    """-ln p(y | theta) - ln p(theta), theta being ln of the length-scales and of the noise."""
    regressor = process(inputs, targets, np.exp(theta[:-1]), np.exp(theta[-1]))
    prior = norm.logpdf(theta[:-1], np.log(0.5), 1.0) - norm.logpdf(0.0)
    return -regressor.log_marginal_likelihood(regressor.kernel_.theta) - prior.sum()


def most_probable(inputs, targets, random):
    dimensions = inputs.shape[1]
    bounds = [(np.log(1e-2), np.log(1e2))] * dimensions + [(np.log(1e-8), np.log(1e-1))]
    starts = [np.array([random.uniform(low, high) for low, high in bounds]) for _ in range(30)]
    starts.append(np.array([np.log(0.5)] * dimensions + [np.log(1e-4)]))
    fits = [minimize(posterior, x, args=(inputs, targets), method="L-BFGS-B", bounds=bounds) for x in starts]
    best = min(fits, key=lambda fit: fit.fun)
    return best.x, best.fun


def case(name, inputs, targets, random):
    points = random.uniform(-0.3, 1.3, (6, inputs.shape[1]))
    given = []
    for length_scales, noise in [([0.4] * inputs.shape[1], 1e-6), (list(random.uniform(0.1, 2, inputs.shape[1])), 0.03)]:
        regressor = process(inputs, targets, length_scales, noise)
        mean, variance = predictions(regressor, points, length_scales, targets)
        given.append(
            {
                "length_scales": length_scales,
                "noise": noise,
                "log_marginal_likelihood": regressor.log_marginal_likelihood(regressor.kernel_.theta),
                "mean": mean,
                "variance": variance,
            }
        )
    theta, value = most_probable(inputs, targets, random)
    return {
        "name": name,
        "inputs": inputs.tolist(),
        "targets": targets.tolist(),
        "points": points.tolist(),
        "given": given,
        "fitted": {
            "length_scales": np.exp(theta[:-1]).tolist(),
            "noise": float(np.exp(theta[-1])),
            "negative_log_posterior": value,
        },
    }


def improvement(mean, deviation, best):
    """Expected improvement and its logarithm with 400 digits."""
    mpmath.mp.dps = 400
    mean, deviation, best = (mpmath.mpf(x) for x in (mean, deviation, best))
    z = (best - mean) / deviation
    value = (best - mean) * mpmath.ncdf(z) + deviation * mpmath.npdf(z)
    return float(value), float(mpmath.log(value))


def main():
    random = np.random.default_rng(7)
    cases = []
    x = random.uniform(0, 1, (12, 2))
    cases.append(case("smooth", x, np.sin(4 * x[:, 0]) + 0.3 * (x[:, 1] - 0.4) ** 2, random))
    x = random.uniform(0, 1, (16, 2))
    cases.append(case("noisy", x, 3 + 50 * np.cos(3 * x[:, 0] + 2 * x[:, 1]) + random.normal(0, 8, 16), random))
    x = random.uniform(0, 1, (9, 1))
    cases.append(case("one dimension", x, np.abs(x[:, 0] - 0.3), random))
    x = random.uniform(0, 1, (20, 4))
    cases.append(case("irrelevant dimensions", x, x[:, 0] ** 2 - 2 * x[:, 2], random))
    improvements = []
    for z in [-30000.0, -400.0, -38.5, -25.0, -20.001, -19.999, -9.0, -5.0, -1.001, -0.999, -0.2, 0.0, 0.3, 2.0, 8.0, 30.0]:
        mean, deviation = 0.7, 0.25
        best = mean + z * deviation
        value, logarithm = improvement(mean, deviation, best)
        improvements.append({"mean": mean, "deviation": deviation, "best": best, "value": value, "log": logarithm})
    sobol = qmc.Sobol(21, scramble=False, bits=32).random(128)
    print(json.dumps({"processes": cases, "improvements": improvements, "sobol": sobol.tolist()}, indent=None))


if __name__ == "__main__":
    main()
