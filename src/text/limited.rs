//! Lists and maps of a file that have a limit, since a hostile one would ask for all memory.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The most pieces, merges and added tokens: no known vocabulary has more than 260,000.
pub const MAX_ITEMS: usize = 400_000;

/// A list of at most [`MAX_ITEMS`].
pub struct Items<T>(pub Vec<T>);

impl<T> Default for Items<T> {
    fn default() -> Self {
        Items(Vec::new())
    }
}

/// A map of at most [`MAX_ITEMS`].
pub struct Vocabulary(pub HashMap<String, u32>);

struct Limited<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> std::result::Result<Self, D::Error> {
        input.deserialize_seq(Limited::<Items<T>>(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Limited<Items<T>> {
    type Value = Items<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX_ITEMS}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> std::result::Result<Items<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = input.next_element()? {
            if items.len() == MAX_ITEMS {
                return Err(A::Error::custom(format!("a list has more than {MAX_ITEMS} items")));
            }
            items.push(item);
        }
        Ok(Items(items))
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(input: D) -> std::result::Result<Self, D::Error> {
        input.deserialize_map(Limited::<Vocabulary>(PhantomData))
    }
}

impl<'de> Visitor<'de> for Limited<Vocabulary> {
    type Value = Vocabulary;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a map from at most {MAX_ITEMS} pieces to ids")
    }

    fn visit_map<A: MapAccess<'de>>(
        self,
        mut input: A,
    ) -> std::result::Result<Vocabulary, A::Error> {
        let mut ids = HashMap::new();
        while let Some((piece, id)) = input.next_entry()? {
            if ids.len() == MAX_ITEMS {
                return Err(A::Error::custom(format!("`vocab` has more than {MAX_ITEMS} pieces")));
            }
            ids.insert(piece, id);
        }
        Ok(Vocabulary(ids))
    }
}
