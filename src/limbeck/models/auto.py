"""Makes limbeck's decoder one of those that Transformers' Auto classes know. Whoever loads a model imports this first."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from limbeck.models.decoder import LimbeckConfig, LimbeckForCausalLM, LimbeckModel

__all__ = ["LimbeckConfig", "LimbeckForCausalLM", "LimbeckModel"]

AutoConfig.register(LimbeckConfig.model_type, LimbeckConfig)
AutoModel.register(LimbeckConfig, LimbeckModel)
AutoModelForCausalLM.register(LimbeckConfig, LimbeckForCausalLM)
