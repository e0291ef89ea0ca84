"""Registers limbeck's decoder with Transformers' Auto classes. Import this before a model is loaded."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from limbeck.models.decoder import LimbeckConfig, LimbeckForCausalLM, LimbeckModel

__all__ = ["LimbeckConfig", "LimbeckForCausalLM", "LimbeckModel"]

AutoConfig.register(LimbeckConfig.model_type, LimbeckConfig)
AutoModel.register(LimbeckConfig, LimbeckModel)
AutoModelForCausalLM.register(LimbeckConfig, LimbeckForCausalLM)
