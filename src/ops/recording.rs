//! Steps that are computed over and over: on a card recorded and repeated, elsewhere computed anew.

use std::hash::Hash;
use std::ops::Deref;
#[cfg(feature = "cuda")]
use std::sync::Arc;

use super::place::Place;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{Card, Graphs};

/// What a step gives. A recorded step gives the same memory each time, with other values.
#[derive(Debug)]
pub enum Output<T> {
    /// Computed anew.
    New(T),
    /// Of a recording.
    #[cfg(feature = "cuda")]
    Recorded(Arc<T>),
}

impl<T> Deref for Output<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Output::New(output) => output,
            #[cfg(feature = "cuda")]
            Output::Recorded(output) => output,
        }
    }
}

/// Recordings of steps by their keys.
#[derive(Debug)]
pub struct Recordings<K, T> {
    #[cfg(feature = "cuda")]
    graphs: Graphs<K, Arc<T>>,
    #[cfg(not(feature = "cuda"))]
    none: std::marker::PhantomData<(K, T)>,
}

impl<K, T> Default for Recordings<K, T> {
    fn default() -> Self {
        Recordings {
            #[cfg(feature = "cuda")]
            graphs: Graphs::default(),
            #[cfg(not(feature = "cuda"))]
            none: std::marker::PhantomData,
        }
    }
}

impl<K: Eq + Hash, T> Recordings<K, T> {
    /// Forgets all, as something that the steps read lies elsewhere now.
    pub fn forget(&mut self) {
        *self = Recordings::default();
    }

    /// Lets steps be recorded of which that has failed.
    pub fn try_again(&mut self) {
        #[cfg(feature = "cuda")]
        self.graphs.try_again();
    }

    /// What `step` gives at a place. Steps of one key read and write the same memory.
    ///
    /// # Errors
    /// What `step` returns, or a card reports.
    pub fn run<E: From<candle_core::Error>>(
        &mut self,
        place: &Place,
        key: K,
        step: impl FnMut() -> Result<T, E>,
    ) -> Result<Output<T>, E> {
        let mut step = step;
        #[cfg(feature = "cuda")]
        if place.device().is_cuda() && super::way() == super::Way::Kernel {
            let card = Card::of(place.device())?;
            let work = || step().map(Arc::new);
            let read = |output: &Arc<T>| Ok(Output::Recorded(output.clone()));
            return self.graphs.run(&card, key, work, read);
        }
        let (_, _) = (place, key);
        step().map(Output::New)
    }

    /// Whether a step was recorded for a key.
    pub fn has(&self, key: &K) -> bool {
        #[cfg(feature = "cuda")]
        return self.graphs.has(key);
        #[cfg(not(feature = "cuda"))]
        {
            let _ = key;
            false
        }
    }

    /// Has a card do again the step that was recorded for a key, of which the host is asked nothing; `None`
    /// where there is none.
    ///
    /// # Errors
    /// What the card reports.
    pub fn again(&self, key: &K) -> candle_core::Result<Option<Output<T>>> {
        #[cfg(feature = "cuda")]
        if let Some(output) = self.graphs.again(key)? {
            return Ok(Some(Output::Recorded(output.clone())));
        }
        let _ = key;
        Ok(None)
    }
}
