//! Steps that are computed over and over: on a card recorded and repeated, elsewhere computed anew.

use std::ops::Deref;
#[cfg(feature = "cuda")]
use std::sync::Arc;

use super::hidden::Hidden;
use super::place::Place;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{Card, Graphs};

/// What a step gives. A recorded step gives the same rows each time, with other values.
#[derive(Debug)]
pub enum Output {
    /// Computed anew.
    New(Hidden),
    /// Of a recording.
    #[cfg(feature = "cuda")]
    Recorded(Arc<Hidden>),
}

impl Deref for Output {
    type Target = Hidden;

    fn deref(&self) -> &Hidden {
        match self {
            Output::New(hidden) => hidden,
            #[cfg(feature = "cuda")]
            Output::Recorded(hidden) => hidden,
        }
    }
}

/// Recordings of steps by their keys.
#[derive(Debug, Default)]
pub struct Recordings {
    #[cfg(feature = "cuda")]
    graphs: Graphs<Arc<Hidden>>,
}

impl Recordings {
    /// Forgets all, as something that the steps read lies elsewhere now.
    pub fn forget(&mut self) {
        *self = Recordings::default();
    }

    /// What `step` gives at a place. Steps of one key read and write the same memory.
    ///
    /// # Errors
    /// What `step` returns, or a card reports.
    pub fn run<E: From<candle_core::Error>>(
        &mut self,
        place: &Place,
        key: usize,
        step: impl FnMut() -> Result<Hidden, E>,
    ) -> Result<Output, E> {
        let mut step = step;
        #[cfg(feature = "cuda")]
        if place.device().is_cuda() && super::way() == super::Way::Kernel {
            let card = Card::of(place.device())?;
            let work = || step().map(Arc::new);
            let read = |hidden: &Arc<Hidden>| Ok(Output::Recorded(hidden.clone()));
            return self.graphs.run(&card, key, work, read);
        }
        let (_, _) = (place, key);
        step().map(Output::New)
    }
}
