"""Zero-cost proxies: predict a network's trained accuracy before training.

All proxies are called as ``proxy(apply, params, batch, key)`` and return a
scalar that is higher for better networks:

- ``apply(params, x)`` returns the outputs of the model, with one row per
  example;
- ``params`` is a tree of arrays;
- ``batch`` is a pair of inputs and labels; labels may be `None` for proxies
  without a loss;
- ``key`` is a random key, which only `zen` needs.

Proxies with a loss take ``loss(logits, labels)``, which returns the loss of
each example or their mean; cross-entropy by default.

`rank` orders candidates by a proxy; `spearman` and `kendall` correlate that
order with trained accuracy.
"""

from lthjax.proxies._activations import naswot
from lthjax.proxies._baselines import multiply_adds, num_params
from lthjax.proxies._correlation import kendall, spearman
from lthjax.proxies._fisher import fisher
from lthjax.proxies._gradients import grad_norm, grasp, snip
from lthjax.proxies._jacobian import jacob_cov
from lthjax.proxies._ranking import Candidate, Ranking, rank
from lthjax.proxies._synflow import synflow
from lthjax.proxies._zen import zen

__all__ = [
  'Candidate',
  'Ranking',
  'fisher',
  'grad_norm',
  'grasp',
  'jacob_cov',
  'kendall',
  'multiply_adds',
  'naswot',
  'num_params',
  'rank',
  'snip',
  'spearman',
  'synflow',
  'zen',
]
