"""The objectives that tests of rewards and losses go through."""

from t2.training.objectives import RLOO, SFT, Reinforce

OBJECTIVES = [Reinforce, RLOO, SFT]
