"""What is read: sources of documents, tokens on disk, rows with weights."""

from limbeck.corpora.build import build_held_out, build_stores
from limbeck.corpora.chat import conversation
from limbeck.corpora.document import Document, is_held_out
from limbeck.corpora.pack import Rows, require_rows
from limbeck.corpora.source import read
from limbeck.corpora.store import TokenStore
from limbeck.corpora.tokenizer import Frame, document_tokens, frame, train_tokenizer

__all__ = [
    "Document",
    "Frame",
    "Rows",
    "TokenStore",
    "build_held_out",
    "build_stores",
    "conversation",
    "document_tokens",
    "frame",
    "is_held_out",
    "read",
    "require_rows",
    "train_tokenizer",
]
