//! Fast loops over slices: slices in, slices out; knows no model and no candle.
