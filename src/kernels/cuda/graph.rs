//! Decoding steps recorded once and repeated: a step launches some seventy kernels, which takes the host
//! longer than the card, unless it launches all of them at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaGraph;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUstreamCaptureMode,
};

use super::{Card, Pool};

/// Recorded work by its key, and what it leaves.
///
/// The memory it works in is a pool of its own: nobody else can have it in between.
pub struct Graphs<K, T> {
    pool: Arc<Pool>,
    recorded: HashMap<K, Recorded<T>>,
}

enum Recorded<T> {
    /// Done once: the pool has the memory it needs.
    Warm,
    Graph(Recording, T),
    /// It cannot be recorded.
    Refused,
}

/// A recording.
struct Recording {
    graph: CudaGraph,
    card: Arc<Card>,
}

// SAFETY: the driver's graphs belong to no thread; whoever has one launches or drops it alone.
unsafe impl Send for Recording {}

impl Recording {
    fn launch(&self) -> Result<()> {
        use candle_core::cuda_backend::cudarc::driver::result::graph::launch;
        let stream = &self.card.stream;
        stream.context().bind_to_thread().w()?;
        // SAFETY: the graph lives, and what it works in lives in the pool beside it.
        unsafe { launch(self.graph.cu_graph_exec(), stream.cu_stream()) }.w()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // The card may be at it; where waiting fails it does nothing any more.
        let _ = self.card.synchronize();
    }
}

impl<K, T> Default for Graphs<K, T> {
    fn default() -> Self {
        Graphs { pool: Arc::default(), recorded: HashMap::new() }
    }
}

impl<K, T> std::fmt::Debug for Graphs<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graphs({})", self.recorded.len())
    }
}

impl<K: Eq + Hash, T> Graphs<K, T> {
    /// Does `work` and hands what it leaves to `read`: the first time as it is, the second time while it is
    /// recorded, and from then on by the recording. `work` must launch the same kernels each time on what
    /// lies where it did, and copy nothing to or from the host.
    ///
    /// # Errors
    /// What `work` and `read` return, or the driver reports.
    pub fn run<E: From<candle_core::Error>, R>(
        &mut self,
        card: &Arc<Card>,
        key: K,
        mut work: impl FnMut() -> std::result::Result<T, E>,
        read: impl FnOnce(&T) -> std::result::Result<R, E>,
    ) -> std::result::Result<R, E> {
        let pool = self.pool.clone();
        match self.recorded.get(&key) {
            Some(Recorded::Graph(graph, left)) => {
                graph.launch()?;
                return read(left);
            }
            Some(Recorded::Warm) => {}
            Some(Recorded::Refused) => return read(&card.with_pool(&pool, work)?),
            None => {
                let left = card.with_pool(&pool, work)?;
                self.recorded.insert(key, Recorded::Warm);
                return read(&left);
            }
        }
        let Some((graph, left)) = record(card, &pool, &mut work) else {
            // What was recorded was not done.
            self.recorded.insert(key, Recorded::Refused);
            return read(&card.with_pool(&pool, work)?);
        };
        graph.launch()?;
        let result = read(&left);
        self.recorded.insert(key, Recorded::Graph(graph, left));
        result
    }

    /// Lets work be recorded of which that has failed.
    pub fn try_again(&mut self) {
        self.recorded.retain(|_, recorded| !matches!(recorded, Recorded::Refused));
    }

    /// Whether work is recorded under a key.
    pub fn has(&self, key: &K) -> bool {
        matches!(self.recorded.get(key), Some(Recorded::Graph(..)))
    }

    /// Does again what is recorded, and gives what it leaves; `None` where it is not.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn again(&self, key: &K) -> Result<Option<&T>> {
        match self.recorded.get(key) {
            Some(Recorded::Graph(graph, left)) => graph.launch().map(|()| Some(left)),
            _ => Ok(None),
        }
    }
}

/// Records `work`; `None` if that cannot be.
fn record<T, E>(
    card: &Arc<Card>,
    pool: &Arc<Pool>,
    work: &mut impl FnMut() -> std::result::Result<T, E>,
) -> Option<(Recording, T)> {
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    card.recorder.begin_capture(mode).ok()?;
    let left = {
        let _recording = WhileRecording { card, pool };
        pool.close(true);
        card.set_recording(true).ok().map(|()| card.with_pool(pool, work))
    };
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = card.recorder.end_capture(flags);
    let (graph, left) = (graph.ok()??, left?.ok()?);
    Some((Recording { graph, card: card.clone() }, left))
}

/// Has launches go back to the card's own stream, also after a panic.
struct WhileRecording<'a> {
    card: &'a Card,
    pool: &'a Pool,
}

impl Drop for WhileRecording<'_> {
    fn drop(&mut self) {
        self.pool.close(false);
        // It fails where nothing works any more, and then the next launch says so.
        let _ = self.card.set_recording(false);
    }
}
