"""repeng: its own gguf files, as `ControlVector.import_gguf` reads them, which differ from llama.cpp's in
that layer 0 may be among them.

Key l is the output of block l, as here. The hint in the file is transformers' model type, which repeng
compares when vectors are added.
"""

from traitscope.analysis.exchange.gguf_format import read, write

__all__ = ["read", "write"]
