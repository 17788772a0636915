"""Opens an existing tokenizer: a folder, a run's folder, or a name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlgym.errors import RequestError
from rlgym.ssl.data.tokenizer import CAUSAL, Tokenizer
from rlgym.ssl.data.tokenizer_files import ROLES, TOKENIZER, Found, default_template, present_roles, read_folder

if TYPE_CHECKING:
    from rlgym.ssl.config import ExistingTokenizer


def existing(config: ExistingTokenizer, causal: bool) -> Tokenizer:
    """Open a folder with a tokenizer.json, a run's, or one from the hub; RequestError if needed special tokens are
    missing."""
    if not config.path:
        raise RequestError(
            "tokenizer.path is empty: name a folder with a tokenizer.json, a run folder or a tokenizer on the hub"
        )
    path = Path(config.path).expanduser()
    if path.name == TOKENIZER and path.is_file():
        path = path.parent
    folders = [folder for folder in (path, path / "tokenizer") if (folder / TOKENIZER).is_file()]
    if folders:
        found = read_folder(folders[0])
    elif path.exists():
        raise RequestError(f"tokenizer.path={config.path}: no {TOKENIZER} in it, nor in a folder tokenizer/ below it")
    else:
        found = _from_hub(config)
    roles = _needed(config, found, causal)
    return Tokenizer(found.backend, roles, found.stops if causal else (), found.chat_template)


def _needed(config: ExistingTokenizer, found: Found, causal: bool) -> dict[str, str]:
    """The roles for the objective: documents begin with bos_token and end with eos_token."""
    place, roles = f"tokenizer.path={config.path}", dict(found.roles)
    if causal:
        if "eos_token" not in roles:
            raise RequestError(f"{place}: has no end-of-text token, which objective=next_token needs")
        roles = {role: token for role, token in roles.items() if role not in ("mask_token", "cls_token", "sep_token")}
        roles["bos_token"] = _first_token(place, found)
    else:
        if "mask_token" not in roles:
            raise RequestError(f"{place}: has no mask token, which objective=masked needs")
        for role, instead in (("cls_token", "bos_token"), ("sep_token", "eos_token")):
            if role not in roles and instead in roles:
                roles[role] = roles[instead]
            if role not in roles:
                raise RequestError(f"{place}: has no {role.removesuffix('_token')} token, which objective=masked needs")
        roles["bos_token"], roles["eos_token"] = roles["cls_token"], roles["sep_token"]
    if roles.get("pad_token") in (None, roles["eos_token"]):
        # If padding were the end of text, the loss would ignore the end of text.
        roles["pad_token"] = CAUSAL["pad_token"]
        found.backend.add_special_tokens([CAUSAL["pad_token"]])
    return roles


def _first_token(place: str, found: Found) -> str:
    """The first token of a decoder's documents: the one its tokenizer prepends, or bos_token if its chats begin with
    it, else the end of text of the previous document."""
    backend, roles = found.backend, found.roles
    backend.no_truncation()
    backend.no_padding()
    plain, whole = (backend.encode("a", add_special_tokens=special).ids for special in (False, True))
    before = whole[: next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)]
    if len(before) > 1:
        shown = " ".join(str(backend.id_to_token(i)) for i in before)
        raise RequestError(
            f"{place}: its texts begin with several tokens ({shown}), which is not supported: one would do"
        )
    if before:
        return str(backend.id_to_token(before[0]))
    begins = found.adds_bos or "bos_token" in (found.chat_template or "")
    return roles["bos_token"] if begins and "bos_token" in roles else roles["eos_token"]


def _from_hub(config: ExistingTokenizer) -> Found:
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(config.path, revision=config.revision or None, trust_remote_code=False)
        backend = found.backend_tokenizer
    except Exception as error:  # the hub, the network and file formats raise many kinds of errors
        reason = " ".join(str(error).split())[:200]
        raise RequestError(
            f"tokenizer.path={config.path}: no such folder, and the hub does not give it ({reason})"
        ) from None
    named = {role: str(token) for role in ROLES if (token := getattr(found, role, None)) is not None}
    return Found(backend, present_roles(backend, named), [], default_template(found.chat_template), False)
