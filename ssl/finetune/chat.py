"""Models that answer chats: whose prompts are framed as a user's words by the chat template, in training as in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlgym.errors import RequestError
from rlgym.ssl.finetune import template
from rlgym.ssl.inference.language_model import LanguageModel

if TYPE_CHECKING:
    from rlgym.config.schema import FinetuneConfig
    from rlgym.ssl.data.tokenizer import Tokenizer
    from rlgym.ssl.finetune.start import Start
    from rlgym.ssl.models.backbone import Backbone


class Chat(LanguageModel):
    """A language model that answers what a user says."""

    def prompt_ids(self, text: str) -> list[int]:
        try:
            return template.asked(self.tokenizer, text, chat=True)
        except ValueError as error:
            raise RequestError(f"prompt={text!r:.60}: {error}") from None


def language_model(model: Backbone, tokenizer: Tokenizer, chat: bool) -> LanguageModel:
    return Chat(model, tokenizer) if chat else LanguageModel(model, tokenizer)


def resolve_chat(config: FinetuneConfig, start: Start) -> str:
    """`method.chat` where it is empty, and a line that says what it means; empty where the model knows no chats.

    The default prompts are text to go on from, no questions. A run that began before there was this key has none that
    are framed.
    """
    method = config.method
    if method.chat is None:
        method.chat = start.chat and config.data.name != "default"
    if method.chat and start.tokenizer.chat_template is None:
        raise RequestError(
            "method.chat=true: the model has no chat template; finetune method=instruction on chats gives it one"
        )
    if method.chat:
        return "prompts    framed by the model's chat template; method.chat=false takes them as they stand"
    if start.chat:
        return "prompts    as they stand; method.chat=true frames them by the model's chat template"
    return ""
