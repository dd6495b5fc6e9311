"""Answer a prompt with the base model and with an expert: python adapt.py expert=RUN prompt="What is 3 + 4?"

Choosing and mixing experts per prompt (the paper's three strategies) is not part of this script yet.
"""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from t2.experts import Expert, wear
from t2.runtime import quiet_libraries
from t2.scripts import launch
from t2.types import Completion, Example

log = logging.getLogger(__name__)
CONF = Path(__file__).resolve().parent / "conf"


def adapt(cfg: DictConfig) -> dict[str, Completion]:
    """Answer `cfg.prompt` with both systems; returns their completions by the system's name."""
    quiet_libraries()
    expert = Expert.load(Expert.find(cfg.expert))
    sampling = instantiate(cfg.sampling, seed=cfg.seed)
    adapter = instantiate(cfg.adapter)
    lm = instantiate(cfg.base_model)
    adapter.inject(lm.model, lm.source)
    wear(adapter, expert, source=lm.source, transfer=cfg.transfer)
    example = Example(prompt=cfg.prompt, system=cfg.system)
    answers = {}
    for system, worn in (("base", "base"), ("expert", "merged")):
        generator = instantiate(cfg.generation)(lm=lm, adapter=adapter, worn=worn)
        answers[system] = generator.generate([example], sampling)[0][0]
        print(f"\n[{system}]\n{answers[system].text.strip()}")
    return answers


if __name__ == "__main__":
    launch(adapt, conf=CONF, name="adapt")
