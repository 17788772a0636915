"""Chat models, whose prompts are framed as user messages by the chat template, in training and use."""

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
    """A language model that answers user messages."""

    def prompt_ids(self, text: str) -> list[int]:
        try:
            return template.asked(self.tokenizer, text, chat=True)
        except ValueError as error:
            raise RequestError(f"prompt={text!r:.60}: {error}") from None


def language_model(model: Backbone, tokenizer: Tokenizer, chat: bool) -> LanguageModel:
    return Chat(model, tokenizer) if chat else LanguageModel(model, tokenizer)


def resolve_chat(config: FinetuneConfig, start: Start) -> str:
    """Resolve an empty `method.chat`; returns a notice, empty if the model has no chat template. The default prompts
    are text to continue, not questions. Runs from before this key do not frame prompts.
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
