"""What a model is made of, and how it is loaded and saved."""

from limbeck.models.load import LanguageModel, load, load_config, new_model, save

__all__ = ["LanguageModel", "load", "load_config", "new_model", "save"]
