//! Decoding steps recorded once and repeated: a step launches some seventy kernels, which takes the host
//! longer than the card, unless it launches all of them at once.

use std::collections::HashMap;

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaGraph;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUstreamCaptureMode,
};

use super::Card;

/// Recorded work by its key: what it reads and writes lies where it did when it was recorded.
#[derive(Default)]
pub struct Graphs(HashMap<usize, Recorded>);

enum Recorded {
    /// Seen once: its memory is in the pool now.
    Warm,
    Graph(CudaGraph),
    /// It cannot be recorded.
    Refused,
}

impl Graphs {
    /// Does `work`: the first time as it is, the second time while it is recorded, and from then on by the
    /// recording. `work` must launch the same kernels on the same memory each time, and copy nothing to or
    /// from the host.
    ///
    /// # Errors
    /// What `work` returns, or the driver reports.
    pub fn run(
        &mut self,
        card: &Card,
        key: usize,
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        match self.0.get(&key) {
            Some(Recorded::Graph(graph)) => return graph.launch().w(),
            Some(Recorded::Refused) => return work(),
            None => {
                work()?;
                self.0.insert(key, Recorded::Warm);
                return Ok(());
            }
            Some(Recorded::Warm) => {}
        }
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        card.stream.begin_capture(mode).w()?;
        let outcome = work();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let recorded = card.stream.end_capture(flags);
        let graph = match (outcome, recorded) {
            (Ok(()), Ok(Some(graph))) => graph,
            // What was recorded was not done.
            _ => {
                self.0.insert(key, Recorded::Refused);
                return work();
            }
        };
        graph.launch().w()?;
        self.0.insert(key, Recorded::Graph(graph));
        Ok(())
    }
}
