//! Our kernels on NVIDIA's cards: what a pass without gradients launches there. The sources beside this
//! file say what each computes; `tests/test_cuda_*.py` run them on the CPU.
//!
//! Rows are float32 whatever the weights are kept in, as on the CPU. All work of a card goes to one
//! stream, so that memory that comes back to its pool may be handed out at once.

mod attention;
mod beams;
mod best;
mod cache;
mod choose;
mod cross_entropy;
mod dropout;
mod graph;
mod launch;
mod linear;
mod memory;
mod optimizer;
mod pinned;
mod product;
mod softmax;
mod training;
mod weight;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{CudaBlas, sys as cublas};
use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, result,
};
use candle_core::{CudaDevice, CudaStorage, Device, Result};

pub use attention::CardSpans;
pub use beams::{Beams, NextRows};
pub use best::{Best, CardBest};
pub use cache::{CardCache, pairs};
pub use choose::{CardChooser, Choices, Chosen};
pub use cross_entropy::{CardTargets, RowLoss};
pub use graph::Graphs;
pub use launch::WIDEST;
pub use linear::Layer;
pub use memory::{CardNumbers, CardRows, Numbers, Pool, tensor_of};
pub use optimizer::{CardFloats, ElementRule};
pub use pinned::Arriving;
pub use softmax::{CardSide, Side};
pub use training::Normed;
pub use weight::Weight;

/// The kernels, compiled by `build.rs`.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

/// Memory that cuBLAS works in, given to it once: it must not ask for any while a graph is recorded.
const WORKSPACE: usize = 32 << 20;

/// A card that computes.
pub struct Card {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    /// Where work is recorded: on the card's own stream others' memory would be freed meanwhile.
    recorder: Arc<CudaStream>,
    recording: AtomicBool,
    module: Arc<CudaModule>,
    functions: Mutex<HashMap<String, CudaFunction>>,
    blas: Arc<CudaBlas>,
    /// What cuBLAS works in.
    workspace: CudaSlice<u8>,
    /// What passes that are not recorded take rows from.
    own: Arc<Pool>,
    /// Where rows are taken from: `own`, or the pool of recordings.
    pool: Mutex<Arc<Pool>>,
    /// What the host exchanges with it.
    post: Mutex<pinned::Post>,
    /// Held by whoever has work for the card: what others launch meanwhile would be recorded with it.
    alone: Mutex<()>,
}

/// Cards by their number: one of each, as long as the process lives.
static CARDS: Mutex<BTreeMap<usize, Arc<Card>>> = Mutex::new(BTreeMap::new());

impl std::fmt::Debug for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Card({})", self.stream.context().ordinal())
    }
}

impl Card {
    /// The card of one of candle's devices.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn of(device: &Device) -> Result<Arc<Self>> {
        let device = device.as_cuda_device()?;
        let stream = device.cuda_stream();
        let number = stream.context().ordinal();
        let mut cards = lock(&CARDS);
        if let Some(card) = cards.get(&number) {
            return Ok(card.clone());
        }
        // SAFETY: this process uses one stream a card, so that no other needs to wait for an event; nothing runs on the
        // one that records.
        unsafe { device.disable_event_tracking() };
        let module = stream.context().load_module(PTX.into()).w()?;
        let (blas, workspace) = (device.cublas_handle(), device.alloc_zeros::<u8>(WORKSPACE)?);
        let recorder = stream.context().new_stream().w()?;
        let own = Arc::<Pool>::default();
        let card = Arc::new(Card {
            device: device.clone(),
            stream,
            recorder,
            recording: AtomicBool::new(false),
            module,
            functions: Mutex::default(),
            blas,
            workspace,
            pool: Mutex::new(own.clone()),
            own,
            post: Mutex::default(),
            alone: Mutex::new(()),
        });
        card.set_recording(false)?;
        card.keep_freed_memory();
        cards.insert(number, card.clone());
        Ok(card)
    }

    /// Has the driver keep what is given back to it, a part of the memory at most, for whoever asks next in this
    /// process: else it returns all of it whenever somebody waits for the card, after every step of training.
    fn keep_freed_memory(&self) {
        const PART: u64 = 4;
        let context = self.stream.context();
        let Ok((_, memory)) = context.mem_get_info() else { return };
        let mut most = memory as u64 / PART;
        // SAFETY: the pool belongs to the device, which is there; of this attribute the value has 64 bits. Where
        // there are no pools nothing is kept.
        let _ = unsafe {
            result::device::get_default_mem_pool(context.cu_device()).and_then(|pool| {
                let what = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
                result::mem_pool::set_attribute(pool, what, (&raw mut most).cast())
            })
        };
    }

    /// Has what is launched from now on go to where it is recorded, or back.
    fn set_recording(&self, recording: bool) -> Result<()> {
        self.recording.store(recording, Ordering::Relaxed);
        let (start, _guard) = self.workspace.device_ptr(&self.stream);
        let (handle, stream) = (*self.blas.handle(), self.launches_on().cu_stream());
        // SAFETY: stream and workspace live as long as the card. The handle forgets the workspace with the
        // stream.
        let statuses = unsafe {
            [
                cublas::cublasSetStream_v2(handle, stream.cast()),
                cublas::cublasSetWorkspace_v2(handle, start as *mut _, WORKSPACE),
            ]
        };
        match statuses.iter().all(|&status| status == cublas::cublasStatus_t::CUBLAS_STATUS_SUCCESS)
        {
            true => Ok(()),
            false => candle_core::bail!("cuBLAS does not take its stream: {statuses:?}"),
        }
    }

    /// The stream that kernels go to.
    fn launches_on(&self) -> &Arc<CudaStream> {
        if self.recording.load(Ordering::Relaxed) { &self.recorder } else { &self.stream }
    }

    /// Refuses what a recording would not have: copies, and operations of candle.
    fn check_not_recording(&self) -> Result<()> {
        match self.recording.load(Ordering::Relaxed) {
            true => candle_core::bail!("this cannot be recorded"),
            false => Ok(()),
        }
    }

    /// Waits until the card has done all it was asked for.
    ///
    /// # Errors
    /// What went wrong meanwhile.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().w()
    }

    /// Does `work` while no other thread has work for the card; may be nested.
    pub fn alone<R>(&self, work: impl FnOnce() -> R) -> R {
        thread_local! {
            /// The cards that this thread has alone.
            static HELD: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
        }
        /// Gives it back, also after a panic.
        struct Back;
        impl Drop for Back {
            fn drop(&mut self) {
                HELD.with_borrow_mut(Vec::pop);
            }
        }
        let number = self.stream.context().ordinal();
        if HELD.with_borrow(|held| held.contains(&number)) {
            return work();
        }
        let _alone = lock(&self.alone);
        HELD.with_borrow_mut(|held| held.push(number));
        let _back = Back;
        work()
    }

    /// Does `work` with another pool in the place of the card's.
    fn with_pool<R>(&self, pool: &Arc<Pool>, work: impl FnOnce() -> R) -> R {
        let before = std::mem::replace(&mut *lock(&self.pool), pool.clone());
        let result = work();
        *lock(&self.pool) = before;
        result
    }

    /// A kernel by its name.
    fn function(&self, name: &str) -> Result<CudaFunction> {
        let mut functions = lock(&self.functions);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        let function = self.module.load_function(name).w()?;
        functions.insert(name.to_string(), function.clone());
        Ok(function)
    }
}

/// A card as it presents itself.
#[derive(Debug, Clone)]
pub struct Description {
    /// What its maker calls it.
    pub name: String,
    /// Its memory, in bytes.
    pub memory: u64,
    /// What of that is free.
    pub free: u64,
    /// Its compute capability: what it can do, as its maker counts it.
    pub capability: (i32, i32),
}

/// What the kernels are compiled for: with it came bfloat16.
pub const NEEDED: (i32, i32) = (8, 0);

/// The cards of this machine, by their numbers.
///
/// # Errors
/// What the driver reports.
pub fn descriptions() -> Result<Vec<Description>> {
    let count = CudaContext::device_count().w()?;
    let description = |number| {
        let context = CudaContext::new(number).w()?;
        let (free, memory) = context.mem_get_info().w()?;
        Ok(Description {
            name: context.name().w()?,
            memory: memory as u64,
            free: free as u64,
            capability: context.compute_capability().w()?,
        })
    };
    (0..count as usize).map(description).collect()
}

/// The storage of a tensor on a card.
pub fn storage(storage: &candle_core::Storage) -> Result<&CudaStorage> {
    match storage {
        candle_core::Storage::Cuda(storage) => Ok(storage),
        _ => candle_core::bail!("a kernel of a card was given a tensor of another device"),
    }
}

/// After a panic the state is whole: it changes in single steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
