//! Rows of floats on a card, in memory that a pool keeps: asking the driver for some would cost more than
//! most kernels, and must not happen while a graph is recorded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Result, Shape, Storage, Tensor};

use super::launch::{Argument, ROW_THREADS};
use super::weight::Kind;
use super::{Card, lock, storage};

/// Buffers that are not in use, the smallest first.
#[derive(Debug, Default)]
pub struct Pool {
    free: Mutex<Vec<CudaSlice<f32>>>,
    /// While a graph is recorded nothing may be asked of the driver.
    closed: AtomicBool,
}

impl Pool {
    /// Says whether the pool may ask the driver for more.
    pub(super) fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::Relaxed);
    }

    fn take(&self, len: usize) -> Option<CudaSlice<f32>> {
        let mut free = lock(&self.free);
        let at = free.partition_point(|memory| memory.len() < len);
        // A far larger one stays for those who need it.
        (at < free.len() && free[at].len() / 2 <= len).then(|| free.remove(at))
    }

    fn put(&self, memory: CudaSlice<f32>) {
        let mut free = lock(&self.free);
        let at = free.partition_point(|other| other.len() < memory.len());
        free.insert(at, memory);
    }
}

/// A tensor of candle of what a kernel has computed.
pub fn tensor_of(storage: CudaStorage, shape: Shape) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// Numbers `[rows, width]` on a card, float32 or bfloat16; they go back to their pool when they are dropped.
#[derive(Debug)]
pub struct CardRows {
    card: Arc<Card>,
    pool: Arc<Pool>,
    memory: Option<CudaSlice<f32>>,
    kind: Kind,
    rows: usize,
    width: usize,
}

impl Card {
    /// Rows of float32, of unspecified content.
    ///
    /// # Errors
    /// What the driver reports, memory that runs out among it.
    pub fn rows(self: &Arc<Self>, rows: usize, width: usize) -> Result<CardRows> {
        self.rows_of_kind(Kind::Float32, rows, width)
    }

    /// Rows of bfloat16, of unspecified content.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub fn rows_bfloat16(self: &Arc<Self>, rows: usize, width: usize) -> Result<CardRows> {
        self.rows_of_kind(Kind::Bfloat16, rows, width)
    }

    fn rows_of_kind(self: &Arc<Self>, kind: Kind, rows: usize, width: usize) -> Result<CardRows> {
        // Two numbers of 16 bits in a float's place.
        let len = if kind == Kind::Float32 { rows * width } else { (rows * width).div_ceil(2) };
        let len = len.max(1);
        let pool = lock(&self.pool).clone();
        let memory = match pool.take(len) {
            Some(memory) => memory,
            None if pool.closed.load(Ordering::Relaxed) => {
                candle_core::bail!("memory was asked for while a graph was recorded")
            }
            None => self.floats(len)?,
        };
        Ok(CardRows { card: self.clone(), pool, memory: Some(memory), kind, rows, width })
    }

    /// Floats of unspecified content, outside of the pool.
    pub(super) fn floats(&self, count: usize) -> Result<CudaSlice<f32>> {
        self.check_not_recording()?;
        // SAFETY: a kernel writes every one of them before others read them.
        let floats = || unsafe { self.device.alloc::<f32>(count.max(1)) };
        floats().or_else(|_| {
            // What lies unused may be enough.
            self.trim();
            floats()
        })
    }

    /// A tensor of candle with these floats.
    pub(super) fn tensor(&self, floats: CudaSlice<f32>, shape: Shape) -> Tensor {
        tensor_of(CudaStorage::wrap_cuda_slice(floats, self.device.clone()), shape)
    }

    /// Gives back to the driver what the card keeps for passes that are not recorded: recordings know where theirs
    /// is.
    pub fn trim(&self) {
        lock(&self.own.free).clear();
    }

    /// A copy of a tensor `[rows, width]` on this card.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn rows_of(self: &Arc<Self>, tensor: &Tensor) -> Result<CardRows> {
        self.check_not_recording()?;
        let tensor = tensor.to_dtype(DType::F32)?.contiguous()?;
        let (count, width) = tensor.dims2()?;
        let mut rows = self.rows(count, width)?;
        let (stored, layout) = tensor.storage_and_layout();
        let floats = storage(&stored)?.as_cuda_slice::<f32>()?;
        let from = floats.slice(layout.start_offset()..layout.start_offset() + count * width);
        let memory = rows.memory.as_mut().expect("it is there until it is dropped");
        self.stream.memcpy_dtod(&from, &mut memory.slice_mut(..count * width)).w()?;
        Ok(rows)
    }
}

impl CardRows {
    /// The card that holds them.
    pub fn card(&self) -> &Arc<Card> {
        &self.card
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Floats in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The same floats as rows of another width, which divides them.
    pub fn with_width(mut self, width: usize) -> Self {
        self.rows = self.rows * self.width / width.max(1);
        self.width = width;
        self
    }

    /// Whether they are float32.
    pub fn is_float32(&self) -> bool {
        self.kind == Kind::Float32
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The same numbers in float32.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn widened(&self) -> Result<Self> {
        let (count, wide) = (self.rows * self.width, self.card.rows(self.rows, self.width)?);
        assert_eq!(self.kind, Kind::Bfloat16, "these cannot be widened");
        let arguments = [
            Argument::Pointer(self.start()),
            Argument::Pointer(wide.pointer()),
            Argument::count(count)?,
        ];
        let grid = (count.div_ceil(ROW_THREADS), 1, 1);
        self.card.launch("widen_bfloat16", grid, ROW_THREADS, 0, &arguments)?;
        Ok(wide)
    }

    /// Where they begin: float32.
    pub(super) fn pointer(&self) -> CUdeviceptr {
        assert!(self.is_float32(), "a kernel of float32 was given {:?}", self.kind);
        self.start()
    }

    /// Where they begin, whatever they are.
    pub(super) fn start(&self) -> CUdeviceptr {
        let memory = self.memory.as_ref().expect("it is there until it is dropped");
        // Events are not tracked: there is one stream.
        memory.device_ptr(&self.card.stream).0
    }

    /// A copy in the host's memory.
    ///
    /// # Errors
    /// What the card reports of this and of the work before.
    pub fn download(&self) -> Result<Vec<f32>> {
        self.card.check_not_recording()?;
        if !self.is_float32() {
            return self.widened()?.download();
        }
        let memory = self.memory.as_ref().expect("it is there until it is dropped");
        let copy = self.card.stream.clone_dtoh(&memory.slice(..self.rows * self.width)).w()?;
        self.card.received();
        Ok(copy)
    }

    /// A copy as a tensor of candle.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn tensor(&self) -> Result<Tensor> {
        self.card.check_not_recording()?;
        if !self.is_float32() {
            return self.widened()?.tensor();
        }
        let memory = self.memory.as_ref().expect("it is there until it is dropped");
        let copy = self.card.stream.clone_dtod(&memory.slice(..self.rows * self.width)).w()?;
        Ok(self.card.tensor(copy, (self.rows, self.width).into()))
    }
}

impl Drop for CardRows {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.put(memory);
        }
    }
}

/// Whole numbers on a card that change from step to step, where kernels find them each time.
#[derive(Debug)]
pub struct CardNumbers {
    card: Arc<Card>,
    numbers: CudaSlice<u32>,
    count: usize,
}

/// Some of a card's whole numbers, for as long as these lie there.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    pub(super) start: CUdeviceptr,
    /// How many.
    pub count: usize,
}

impl CardNumbers {
    /// A copy of `values`, with room for `room` of them at least.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn new(card: &Arc<Card>, values: &[u32], room: usize) -> Result<Self> {
        // Room for a few more, so that they seldom move.
        let room = values.len().next_power_of_two().max(room).max(32);
        let numbers = card.device.alloc_zeros::<u32>(room)?;
        let numbers = CardNumbers { card: card.clone(), numbers, count: values.len() };
        card.send(values, numbers.all().start)?;
        Ok(numbers)
    }

    /// Takes other values; whether it had to move for them. The host does not wait for it.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn set(&mut self, values: &[u32]) -> Result<bool> {
        let moves = values.len() > self.numbers.len();
        if moves {
            let room = values.len().next_power_of_two();
            self.numbers = self.card.device.alloc_zeros::<u32>(room)?;
        }
        self.count = values.len();
        self.card.send(values, self.all().start)?;
        Ok(moves)
    }

    /// Takes other values in the place of the first.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn replace(&mut self, first: &[u32]) -> Result<()> {
        self.card.send(first, self.part(0, first.len()).start)
    }

    /// All of them.
    pub fn all(&self) -> Numbers {
        self.part(0, self.count)
    }

    /// `count` of them, from `first` on.
    pub fn part(&self, first: usize, count: usize) -> Numbers {
        assert!(first + count <= self.numbers.len(), "there are not so many numbers");
        let start = self.numbers.device_ptr(&self.card.stream).0;
        Numbers { start: start + (4 * first) as CUdeviceptr, count }
    }
}
