//! Byte-level BPE.
