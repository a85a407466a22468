"""What a network will be worth after training, guessed before it.

All proxies are called as ``proxy(apply, params, batch, key)`` with a model
``apply(params, x) -> logits`` and a batch of inputs and labels, and return a
scalar that is higher for networks held to be better. `rank` puts candidates in
order by one of them; `spearman` and `kendall` tell how much that order has to
do with trained accuracy.
"""

from lthjax.proxies.activations import naswot
from lthjax.proxies.baselines import multiply_adds, num_params
from lthjax.proxies.correlation import kendall, spearman
from lthjax.proxies.fisher import fisher
from lthjax.proxies.gradients import grad_norm, grasp, snip
from lthjax.proxies.jacobian import jacob_cov
from lthjax.proxies.ranking import Candidate, Ranking, rank
from lthjax.proxies.synflow import synflow
from lthjax.proxies.zen import zen

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
