//! The decoding loop, beams, constraints and samplers.
