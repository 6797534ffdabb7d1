//! The update rules of the optimizers on a card, and the arrays that they keep there.

use std::sync::Arc;

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr};

#[cfg(doc)]
use super::super::optimizer as rules;
use super::super::optimizer::{AdamStep, Common, RmspropStep};
use super::Card;
use super::launch::{Argument, ROW_THREADS};
use super::weight::Weight;

/// Blocks that a sum of squares is cut into.
const SUMS: usize = 64;

/// `Common` and `Constants` of `optimizer.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Four([f32; 4]);

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Four {}

/// A rule with its constants, as `optimizer.cu` takes them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ElementRule {
    /// [`adam`](rules::adam): its state is `m`, `v`, and `v_hat` or none.
    Adam(AdamStep),
    /// [`sgd`](rules::sgd) or [`sgd_momentum`](rules::sgd_momentum): `m` or none.
    Sgd {
        /// Of the movement before.
        momentum: f32,
        /// Whether it looks ahead.
        nesterov: bool,
    },
    /// [`rmsprop`](rules::rmsprop): `v`, then `m` or none and the average or none.
    Rmsprop(RmspropStep),
    /// [`lion`](rules::lion): `m`.
    Lion([f32; 2]),
}

impl ElementRule {
    /// Its name, and its numbers in the order of its fields.
    fn constants(self) -> (&'static str, [f32; 4]) {
        match self {
            ElementRule::Adam(AdamStep { alpha, keep_1, keep_2, epsilon }) => {
                ("adam", [alpha, keep_1, keep_2, epsilon])
            }
            ElementRule::Sgd { momentum, nesterov } => {
                ("sgd", [momentum, f32::from(u8::from(nesterov)), 0.0, 0.0])
            }
            ElementRule::Rmsprop(RmspropStep { rho, rest, epsilon, momentum }) => {
                ("rmsprop", [rho, rest, epsilon, momentum])
            }
            ElementRule::Lion([beta_1, beta_2]) => ("lion", [beta_1, beta_2, 0.0, 0.0]),
        }
    }
}

/// Floats on a card that stay there.
#[derive(Debug)]
pub struct CardFloats {
    card: Arc<Card>,
    memory: CudaSlice<f32>,
    len: usize,
}

impl CardFloats {
    /// A copy of floats of the host.
    ///
    /// # Errors
    /// What the driver reports, memory that runs out among it.
    pub fn new(card: &Arc<Card>, floats: &[f32]) -> Result<Self> {
        let mut memory = card.device.alloc_zeros::<f32>(floats.len().max(1))?;
        if !floats.is_empty() {
            card.stream.memcpy_htod(floats, &mut memory.slice_mut(..floats.len())).w()?;
        }
        Ok(CardFloats { card: card.clone(), memory, len: floats.len() })
    }

    /// The card that has them.
    pub fn card(&self) -> &Arc<Card> {
        &self.card
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A copy in the host's memory.
    ///
    /// # Errors
    /// What the card reports.
    pub fn to_host(&self) -> Result<Vec<f32>> {
        let copy = self.card.stream.clone_dtoh(&self.memory.slice(..self.len)).w()?;
        self.card.received();
        Ok(copy)
    }

    /// Sets them all to 0.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn clear(&mut self) -> Result<()> {
        self.card.stream.memset_zeros(&mut self.memory).w()
    }

    /// `self = keep * self + add * from`
    ///
    /// # Errors
    /// What the driver reports.
    pub fn blend(&mut self, keep: f32, from: Weight, add: f32) -> Result<()> {
        assert!(from.is_float32() && from.len == self.len, "arrays of unlike sizes");
        self.card.blend(self.pointer(), (keep, add), from.start, self.len)
    }

    /// The same as what kernels read.
    pub fn as_weight(&self) -> Weight {
        Weight::of_floats(self.pointer(), self.len)
    }

    fn pointer(&self) -> CUdeviceptr {
        self.memory.device_ptr(&self.card.stream).0
    }
}

impl Card {
    /// One step of a rule on a parameter, given its gradient and its state.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn update(
        &self,
        rule: ElementRule,
        (value, gradient): (Weight, Weight),
        state: [Option<&mut CardFloats>; 3],
        common: Common,
    ) -> Result<()> {
        let len = value.len;
        assert!(value.is_float32() && gradient.is_float32() && gradient.len == len, "gradient");
        assert!(state.iter().flatten().all(|array| array.len() == len), "state");
        let (name, constants) = rule.constants();
        let [a, b, c] =
            state.map(|array| Argument::Pointer(array.map_or(0, |array| array.pointer())));
        let common = [common.learning_rate, common.decay, common.scale, common.limit];
        let arguments = [
            Argument::Pointer(value.start),
            Argument::Pointer(gradient.start),
            a,
            b,
            c,
            Argument::Long(len as u64),
            Argument::Four(Four(common)),
            Argument::Four(Four(constants)),
        ];
        self.launch(name, (len.div_ceil(ROW_THREADS), 1, 1), ROW_THREADS, 0, &arguments)
    }

    /// `value = other`
    ///
    /// # Errors
    /// What the driver reports.
    pub fn copy(&self, value: Weight, other: &CardFloats) -> Result<()> {
        assert!(value.is_float32() && value.len == other.len, "arrays of unlike sizes");
        use candle_core::cuda_backend::cudarc::driver::result::memcpy_dtod_async;
        self.stream.context().bind_to_thread().w()?;
        let bytes = size_of::<f32>() * value.len;
        // SAFETY: both have so many bytes.
        unsafe { memcpy_dtod_async(value.start, other.pointer(), bytes, self.stream.cu_stream()) }
            .w()
    }

    fn blend(
        &self,
        to: CUdeviceptr,
        (keep, add): (f32, f32),
        from: CUdeviceptr,
        len: usize,
    ) -> Result<()> {
        let arguments = [
            Argument::Pointer(to),
            Argument::Pointer(from),
            Argument::Long(len as u64),
            Argument::Float(keep),
            Argument::Float(add),
        ];
        self.launch("blend", (len.div_ceil(ROW_THREADS), 1, 1), ROW_THREADS, 0, &arguments)
    }

    /// The sum of squares of each of these arrays, with one wait for all.
    ///
    /// # Errors
    /// What the card reports.
    pub fn sums_of_squares(self: &Arc<Self>, arrays: &[Weight]) -> Result<Vec<f64>> {
        // A sum has two floats' place.
        let sums = self.rows(arrays.len(), 2 * SUMS)?;
        for (i, array) in arrays.iter().enumerate() {
            assert!(array.is_float32(), "sums are of float32");
            let arguments = [
                Argument::Pointer(array.start),
                Argument::Long(array.len as u64),
                Argument::Pointer(sums.pointer() + (8 * SUMS * i) as CUdeviceptr),
            ];
            self.launch("sum_of_squares", (SUMS, 1, 1), ROW_THREADS, 0, &arguments)?;
        }
        let sums = sums.download()?;
        let double = |&[low, high]: &[f32; 2]| {
            f64::from_bits(u64::from(high.to_bits()) << 32 | u64::from(low.to_bits()))
        };
        let doubles: Vec<f64> = sums.as_chunks::<2>().0.iter().map(double).collect();
        Ok(doubles.chunks_exact(SUMS).map(|sums| sums.iter().sum()).collect())
    }
}
