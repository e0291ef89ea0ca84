"""Datasets: sources of documents, token stores on disk, packed rows with weights."""

from limbeck.corpora.build import build_held_out, build_stores
from limbeck.corpora.chat import conversation
from limbeck.corpora.document import Document, is_held_out
from limbeck.corpora.pack import Rows, require_rows
from limbeck.corpora.prompt import Prompt, prompts_of
from limbeck.corpora.reading import Reader, Records
from limbeck.corpora.records import Columns
from limbeck.corpora.source import read
from limbeck.corpora.store import TokenStore
from limbeck.corpora.tokenizer import Frame, document_tokens, frame, train_tokenizer

__all__ = [
    "Columns",
    "Document",
    "Frame",
    "Prompt",
    "Reader",
    "Records",
    "Rows",
    "TokenStore",
    "build_held_out",
    "build_stores",
    "conversation",
    "document_tokens",
    "frame",
    "is_held_out",
    "prompts_of",
    "read",
    "require_rows",
    "train_tokenizer",
]
