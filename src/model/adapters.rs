//! Named sets of low-rank additions to a model's matrices ([`LowRank`]): one at a time is in use, and that
//! may be merged into the matrices and taken out of them again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backbone::BartModel;
use super::low_rank::{LowRank, RankOptions};
use super::parameter::Parameter;
use crate::error::{Error, Result};

/// The sets of a model.
#[derive(Debug, Default)]
pub struct Adapters(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sets: BTreeMap<String, Vec<Addition>>,
    in_use: Option<String>,
    /// The matrices as they were before the set in use was merged into them.
    before: Option<Vec<Vec<f32>>>,
}

/// A matrix and what is added to it.
#[derive(Debug, Clone)]
struct Addition {
    matrix: Arc<Parameter>,
    low_rank: Arc<LowRank>,
}

impl Adapters {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is trained of the set in use.
    pub(super) fn trainable(&self) -> Vec<Arc<Parameter>> {
        let state = self.lock();
        if state.before.is_some() {
            return Vec::new();
        }
        let set = state.in_use.as_ref().and_then(|name| state.sets.get(name));
        let mut trainable = set.map_or_else(Vec::new, |set| parameters(set));
        trainable.retain(|parameter| parameter.is_trainable());
        trainable
    }

    /// All parameters of all sets.
    pub(super) fn parameters(&self) -> Vec<Arc<Parameter>> {
        self.lock().sets.values().flat_map(|set| parameters(set)).collect()
    }

    /// The same sets beside the matrices of another model, those that it has; copies where it is elsewhere.
    ///
    /// # Errors
    /// What the device there reports.
    pub(super) fn carried_to(&self, others: &[Arc<Parameter>]) -> Result<Self> {
        let state = self.lock();
        let carried = |set: &Vec<Addition>| {
            let beside = |addition: &Addition| -> Option<Result<Addition>> {
                let matrix = others.iter().find(|p| p.name() == addition.matrix.name())?.clone();
                let low_rank = addition.low_rank.at(matrix.place());
                Some(low_rank.map(|low_rank| Addition { matrix, low_rank }))
            };
            set.iter().filter_map(beside).collect::<Result<Vec<_>>>()
        };
        let sets = state.sets.iter().map(|(name, set)| Ok((name.clone(), carried(set)?)));
        let mut other = State { sets: sets.collect::<Result<_>>()?, ..State::default() };
        if state.before.is_none() {
            other.put_in_use(state.in_use.clone());
        }
        Ok(Adapters(Mutex::new(other)))
    }
}

impl State {
    fn put_in_use(&mut self, name: Option<String>) {
        let set_of = |name: &Option<String>| name.as_ref().and_then(|name| self.sets.get(name));
        for addition in set_of(&self.in_use).into_iter().flatten() {
            addition.matrix.set_low_rank(None);
        }
        for addition in set_of(&name).into_iter().flatten() {
            addition.matrix.set_low_rank(Some(addition.low_rank.clone()));
        }
        self.in_use = name;
    }

    /// Refuses a change of what is in use while it is merged.
    fn check_not_merged(&self) -> Result<()> {
        match (&self.before, &self.in_use) {
            (Some(_), Some(name)) => Err(Error::argument(
                "adapter",
                format!("{name:?} is merged into the weights\nhint: call `unmerge_lora()` first"),
            )),
            _ => Ok(()),
        }
    }

    fn check_known(&self, name: &str) -> Result<()> {
        if self.sets.contains_key(name) {
            return Ok(());
        }
        let known: Vec<String> = self.sets.keys().map(|name| format!("{name:?}")).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(Error::argument("adapter", format!("must be one of: {known}; received {name:?}")))
    }
}

fn parameters(set: &[Addition]) -> Vec<Arc<Parameter>> {
    set.iter().flat_map(|addition| addition.low_rank.parameters()).cloned().collect()
}

impl BartModel {
    /// Adds a set of additions to the matrices `names`, and puts it in use. They begin as nothing. With
    /// `by_head` projections to queries, keys and values have one `B` for all heads.
    ///
    /// # Errors
    /// `Argument` if there is a set of this name, a matrix cannot have one, or one is merged.
    pub fn add_adapter(
        &self,
        adapter: &str,
        names: &[String],
        (rank, alpha): (usize, f64),
        by_head: bool,
        seed: u64,
    ) -> Result<()> {
        let mut state = self.adapters().lock();
        state.check_not_merged()?;
        if state.sets.contains_key(adapter) {
            let message = format!("there is one of the name {adapter:?} already");
            return Err(Error::argument("adapter", message));
        }
        let mut set = Vec::with_capacity(names.len());
        for (stream, name) in names.iter().enumerate() {
            let found = self.adaptable().find(|matrix| matrix.name() == name);
            let Some(matrix) = found.cloned() else {
                let message = format!("`{name}` is no matrix of a layer");
                return Err(Error::argument("target_layer_names", message));
            };
            let heads = if by_head { self.heads_of(name) } else { 1 };
            let options = RankOptions { rank, alpha, heads };
            let low_rank = Arc::new(LowRank::beside(&matrix, options, (seed, stream as u64))?);
            set.push(Addition { matrix, low_rank });
        }
        state.sets.insert(adapter.to_owned(), set);
        state.put_in_use(Some(adapter.to_owned()));
        Ok(())
    }

    /// Puts another set in use, or none.
    ///
    /// # Errors
    /// `Argument` if there is none of this name, or one is merged.
    pub fn use_adapter(&self, adapter: Option<&str>) -> Result<()> {
        let mut state = self.adapters().lock();
        state.check_not_merged()?;
        if let Some(adapter) = adapter {
            state.check_known(adapter)?;
        }
        state.put_in_use(adapter.map(str::to_owned));
        Ok(())
    }

    /// Forgets a set.
    ///
    /// # Errors
    /// As for [`Self::use_adapter`].
    pub fn remove_adapter(&self, adapter: &str) -> Result<()> {
        let mut state = self.adapters().lock();
        state.check_known(adapter)?;
        if state.in_use.as_deref() == Some(adapter) {
            state.check_not_merged()?;
            state.put_in_use(None);
        }
        state.sets.remove(adapter);
        Ok(())
    }

    /// Adds the set in use to the matrices themselves, so that a pass costs what it did without.
    ///
    /// # Errors
    /// `Argument` if none is in use, it is merged already, or the matrices are not kept in float32.
    pub fn merge_adapter(&self) -> Result<()> {
        let mut state = self.adapters().lock();
        state.check_not_merged()?;
        let set = state.in_use.as_ref().and_then(|name| state.sets.get(name));
        let Some(set) = set.cloned() else {
            return Err(Error::argument("adapter", "none is in use"));
        };
        if !self.precision().keeps_float32() {
            let message = format!(
                "cannot be merged into weights of {}, which would round it\n\
                 hint: load the model with dtype=\"float32\"",
                self.precision().name()
            );
            return Err(Error::argument("adapter", message));
        }
        let mut before = Vec::with_capacity(set.len());
        for addition in &set {
            before.push(addition.matrix.values()?);
        }
        for (addition, values) in set.iter().zip(&before) {
            addition.matrix.assign(&addition.low_rank.merged(values)?)?;
            addition.matrix.set_low_rank(None);
        }
        state.before = Some(before);
        Ok(())
    }

    /// Gives the matrices back the values they had before [`Self::merge_adapter`], bit for bit.
    ///
    /// # Errors
    /// `Argument` if no set is merged.
    pub fn unmerge_adapter(&self) -> Result<()> {
        let mut state = self.adapters().lock();
        let Some(before) = state.before.take() else {
            return Err(Error::argument("adapter", "none is merged"));
        };
        let set = state.in_use.as_ref().and_then(|name| state.sets.get(name));
        for (addition, values) in set.into_iter().flatten().zip(&before) {
            addition.matrix.assign(values)?;
            addition.matrix.set_low_rank(Some(addition.low_rank.clone()));
        }
        Ok(())
    }

    /// Names of all sets, and of the one in use, with whether it is merged.
    pub fn adapter_names(&self) -> (Vec<String>, Option<(String, bool)>) {
        let state = self.adapters().lock();
        let in_use = state.in_use.clone().map(|name| (name, state.before.is_some()));
        (state.sets.keys().cloned().collect(), in_use)
    }

    /// The parameters of a set, `A` and `B` of one matrix after the other.
    ///
    /// # Errors
    /// `Argument` if there is none of this name.
    pub fn adapter_parameters(&self, adapter: &str) -> Result<Vec<Arc<Parameter>>> {
        let state = self.adapters().lock();
        state.check_known(adapter)?;
        Ok(parameters(&state.sets[adapter]))
    }

    /// Heads into which the outputs of a matrix are split.
    fn heads_of(&self, name: &str) -> usize {
        let projects = ["q_proj", "k_proj", "v_proj"].iter().any(|part| name.contains(part));
        match (projects, name.starts_with("encoder.")) {
            (false, _) => 1,
            (true, true) => self.config().encoder_attention_heads,
            (true, false) => self.config().decoder_attention_heads,
        }
    }

    /// Says of all sets whether training changes them when they are in use.
    pub fn set_adapters_trainable(&self, trainable: bool) {
        self.adapters().parameters().iter().for_each(|each| each.set_trainable(trainable));
    }

    /// `alpha` over the rank of a set.
    ///
    /// # Errors
    /// `Argument` if there is none of this name.
    pub fn adapter_scale(&self, adapter: &str) -> Result<f32> {
        let state = self.adapters().lock();
        state.check_known(adapter)?;
        Ok(state.sets[adapter].first().map_or(1.0, |addition| addition.low_rank.scale()))
    }

    /// Matrices of the layers: those that can have additions.
    pub fn adaptable(&self) -> impl Iterator<Item = &Arc<Parameter>> {
        let is_matrix = |p: &&Arc<Parameter>| p.name().contains(".layers.") && p.shape().len() == 2;
        self.parameters().iter().filter(is_matrix)
    }
}
