//! Products: of few rows by `linear.cu` and `int8.cu`, of some dozens by `linear_tile.cu`, of many by cuBLAS.

use std::sync::Arc;

use candle_core::Result;
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;

use super::launch::{Argument, ROW_THREADS, WARP};
use super::product::Factor;
use super::weight::{Kind, Weight};
use super::{Card, CardRows};

/// Warps of a block of `linear.cu`.
const WARPS: usize = 4;
/// Rows from which on tensor cores multiply: below, reading the weights is the limit.
const MANY_ROWS: usize = 17;
/// Inputs that a lane of `linear.cu` reads at a time.
const LANE_INPUTS: usize = 8;
/// What a block of `linear_tile.cu` has: rows and outputs; its warps, and inputs that these read at a time.
const TILE: (usize, usize) = (64, 16);
const TILE_WARPS: usize = 8;
const SLAB: usize = 32;

/// `Layers` of `layers.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct LayersParameter([LayerParameter; 3]);

/// `Layer` of `layers.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LayerParameter {
    weight: CUdeviceptr,
    scales: CUdeviceptr,
    bias: CUdeviceptr,
    out: CUdeviceptr,
    outputs: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for LayersParameter {}

impl LayersParameter {
    /// Of some layers, and the most outputs that one of them has.
    fn of(layers: &[Layer<'_>]) -> (Self, usize) {
        let mut parameter = LayersParameter::default();
        for (to, layer) in parameter.0.iter_mut().zip(layers) {
            *to = LayerParameter {
                weight: layer.weight.start,
                scales: layer.weight.scales.unwrap_or_default(),
                bias: layer.bias.map_or(0, |bias| bias.start),
                out: layer.out.pointer(),
                outputs: layer.out.width() as i32,
            };
        }
        (parameter, layers.iter().map(|layer| layer.out.width()).max().unwrap_or(0))
    }
}

/// Whether `linear_tile.cu` takes layers of one kind: each block reads all inputs of its rows, so that neither rows
/// nor outputs may be too many.
fn takes_tiles(x: &CardRows, layers: &[Layer<'_>]) -> bool {
    const MOST_ROWS: usize = 256;
    const MOST_OUTPUTS: usize = 8192;
    let of_16_bits =
        |layer: &Layer<'_>| matches!(layer.weight.kind, Kind::Float16 | Kind::Bfloat16);
    let fits = |layer: &Layer<'_>| of_16_bits(layer) && layer.out.width() <= MOST_OUTPUTS;
    x.rows() <= MOST_ROWS && x.width().is_multiple_of(SLAB) && layers.iter().all(fits)
}

/// A linear layer of a launch.
pub struct Layer<'a> {
    /// `[outputs, inputs]`
    pub weight: Weight,
    /// `[outputs]`, float32.
    pub bias: Option<Weight>,
    /// `[rows, outputs]`
    pub out: &'a mut CardRows,
}

impl Card {
    /// Linear layers over the same inputs `x`, with GELU behind them if it is asked for. Inputs and results are
    /// float32, or bfloat16 where the weights are.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Panics
    /// If sizes do not fit together (so do all functions here).
    pub fn linear(
        self: &Arc<Self>,
        x: &CardRows,
        layers: &mut [Layer<'_>],
        with_gelu: bool,
    ) -> Result<()> {
        let (rows, inputs) = (x.rows(), x.width());
        assert!(layers.len() <= 3, "at most three layers");
        for Layer { weight, bias, out } in layers.iter() {
            let outputs = out.width();
            assert_eq!(weight.len, outputs * inputs, "`weight` is not [outputs, inputs]");
            assert!(bias.is_none_or(|bias| bias.len == outputs && bias.is_float32()), "`bias`");
            assert_eq!(out.rows(), rows, "`out` is not [rows, outputs]");
        }
        let is_float32 = x.is_float32() && layers.iter().all(|layer| layer.out.is_float32());
        let in_bfloat16 = || layers.iter().all(|layer| layer.weight.kind == Kind::Bfloat16);
        assert!(is_float32 || in_bfloat16(), "bfloat16 beside other weights");
        let alike =
            is_float32 && layers.iter().all(|layer| layer.weight.kind == layers[0].weight.kind);
        let is_int8 = layers.iter().any(|layer| layer.weight.kind == Kind::Int8);
        if alike && (is_int8 || rows < MANY_ROWS && inputs.is_multiple_of(LANE_INPUTS)) {
            return self.linear_few(x, layers, with_gelu);
        }
        if alike && takes_tiles(x, layers) {
            return self.linear_tile(x, layers, with_gelu);
        }
        layers.iter_mut().try_for_each(|layer| self.linear_many(x, layer, with_gelu))
    }

    fn linear_few(
        self: &Arc<Self>,
        x: &CardRows,
        layers: &mut [Layer<'_>],
        with_gelu: bool,
    ) -> Result<()> {
        let Some(first) = layers.first() else { return Ok(()) };
        let (rows, kind) = (x.rows(), first.weight.kind);
        let (tile, outputs) = match rows {
            0 | 1 => (1, 1),
            2 => (2, 2),
            3 | 4 => (4, 4),
            _ => (8, 4),
        };
        let (parameter, most) = LayersParameter::of(layers);
        let grid = (most.div_ceil(WARPS * outputs), layers.len(), rows.div_ceil(tile));
        let quantized = (kind == Kind::Int8).then(|| self.quantize(x)).transpose()?;
        let inputs = match &quantized {
            None => vec![Argument::Pointer(x.pointer())],
            Some(both) => both.iter().map(|part| Argument::Pointer(part.pointer())).collect(),
        };
        let arguments = [
            Argument::Int(rows as i32),
            Argument::Int(x.width() as i32),
            Argument::Layers(parameter),
            Argument::Int(i32::from(with_gelu)),
        ];
        let arguments = [inputs, arguments.to_vec()].concat();
        self.launch(&format!("linear_{}_{tile}", kind.name()), grid, WARPS * WARP, 0, &arguments)
    }

    fn linear_tile(&self, x: &CardRows, layers: &mut [Layer<'_>], with_gelu: bool) -> Result<()> {
        let Some(first) = layers.first() else { return Ok(()) };
        let (rows, kind, (parameter, most)) =
            (x.rows(), first.weight.kind, LayersParameter::of(layers));
        let grid = (most.div_ceil(TILE.1), layers.len(), rows.div_ceil(TILE.0));
        let arguments = [
            Argument::Pointer(x.pointer()),
            Argument::Int(rows as i32),
            Argument::Int(x.width() as i32),
            Argument::Layers(parameter),
            Argument::Int(i32::from(with_gelu)),
        ];
        let shared = TILE_WARPS * TILE.0 * TILE.1;
        let name = format!("linear_tile_{}", kind.name());
        self.launch(&name, grid, TILE_WARPS * WARP, shared, &arguments)
    }

    /// Rows in whole numbers of 8 bits, and the scale of each.
    fn quantize(self: &Arc<Self>, x: &CardRows) -> Result<[CardRows; 2]> {
        let (rows, width) = (x.rows(), x.width());
        let both = [self.rows((rows * width).div_ceil(4), 1)?, self.rows(rows, 1)?];
        let arguments = [
            Argument::Pointer(x.pointer()),
            Argument::Int(width as i32),
            Argument::Pointer(both[0].pointer()),
            Argument::Pointer(both[1].pointer()),
        ];
        self.launch("quantize_rows", (rows, 1, 1), ROW_THREADS, 0, &arguments)?;
        Ok(both)
    }

    /// By cuBLAS: inputs in the weight's numbers, sums and results in float32.
    fn linear_many(
        self: &Arc<Self>,
        x: &CardRows,
        layer: &mut Layer<'_>,
        with_gelu: bool,
    ) -> Result<()> {
        let (rows, inputs, outputs) = (x.rows(), x.width(), layer.out.width());
        if rows == 0 || outputs == 0 {
            return Ok(());
        }
        let weight = layer.weight;
        let x = Factor { start: x.start(), kind: x.kind(), transposed: false };
        let w = Factor { start: weight.start, kind: weight.kind, transposed: true };
        let (sizes, out) = ((rows, outputs, inputs), (layer.out.start(), layer.out.kind()));
        self.product(1, sizes, [x, w], weight.kind.multiplied(), out)?;
        if layer.bias.is_none() && !with_gelu {
            return Ok(());
        }
        if !layer.out.is_float32() {
            assert!(outputs.is_multiple_of(8), "outputs of bfloat16 go by eights");
            let eights = rows * outputs / 8;
            let arguments = [
                Argument::Pointer(layer.out.start()),
                Argument::Pointer(layer.bias.map_or(0, |bias| bias.start)),
                Argument::Int(outputs as i32),
                Argument::count(eights)?,
                Argument::Int(i32::from(with_gelu)),
            ];
            let grid = (eights.div_ceil(ROW_THREADS), 1, 1);
            return self.launch("add_bias_bfloat16", grid, ROW_THREADS, 0, &arguments);
        }
        let arguments = [
            Argument::Pointer(layer.out.pointer()),
            Argument::Pointer(layer.bias.map_or(0, |bias| bias.start)),
            Argument::Int(outputs as i32),
            Argument::Int(i32::from(with_gelu)),
        ];
        self.launch("add_bias", (rows, 1, 1), ROW_THREADS, 0, &arguments)
    }
}
