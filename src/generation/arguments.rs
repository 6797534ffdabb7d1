//! Named arguments from a JSON object, taken one by one; what is wrong is said in the caller's
//! words (serde's own messages do not name the argument).

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The arguments that have not been taken yet.
pub(super) struct Arguments(Map<String, Value>);

impl Arguments {
    pub fn new(arguments: Map<String, Value>) -> Self {
        Self(arguments)
    }

    /// Takes an argument; `null` counts as not given.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a finite number.
    pub fn number(&mut self, name: &str, default: f32) -> Result<f32> {
        // A NaN has no JSON form and arrives as null, so null is refused here.
        match self.0.remove(name) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .map(|number| number as f32)
                .filter(|number| number.is_finite())
                .ok_or_else(|| refusal(name, &value, "a finite number")),
        }
    }

    /// Takes a finite number, if there is one.
    pub fn optional_number(&mut self, name: &str) -> Result<Option<f32>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().map(|number| number as f32);
        match number.filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(refusal(name, &value, "a finite number")),
        }
    }

    /// Takes an integer that is at least `least`.
    pub fn count(&mut self, name: &str, default: usize, least: usize) -> Result<usize> {
        Ok(self.optional_count(name, least)?.unwrap_or(default))
    }

    /// Takes an integer that is at least `least`, if there is one.
    pub fn optional_count(&mut self, name: &str, least: usize) -> Result<Option<usize>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        match count.filter(|&count| count >= least) {
            Some(count) => Ok(Some(count)),
            None => Err(refusal(name, &value, &format!("an integer, at least {least}"))),
        }
    }

    /// Takes True or False.
    pub fn flag(&mut self, name: &str, default: bool) -> Result<bool> {
        match self.take(name) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| refusal(name, &value, "True or False")),
        }
    }

    /// Takes any integer of 64 bits; negative ones count by their bits.
    pub fn seed(&mut self, name: &str) -> Result<u64> {
        match self.take(name) {
            None => Ok(0),
            Some(value) => value
                .as_u64()
                .or_else(|| value.as_i64().map(|seed| seed as u64))
                .ok_or_else(|| refusal(name, &value, "an integer of at most 64 bits")),
        }
    }

    /// Takes a list of token ids; not given means an empty one.
    pub fn token_ids(&mut self, name: &str) -> Result<Vec<u32>> {
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        token_ids(&value)
            .ok_or_else(|| refusal(name, &value, "a list of token ids, integers from 0 up"))
    }

    /// Takes a token id, if there is one.
    pub fn optional_token_id(&mut self, name: &str) -> Result<Option<u32>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match token_id(&value) {
            Some(id) => Ok(Some(id)),
            None => Err(refusal(name, &value, "a token id, an integer from 0 up")),
        }
    }

    /// Takes a value that the caller reads itself.
    pub fn any(&mut self, name: &str) -> Option<Value> {
        self.take(name)
    }

    /// Refuses what nobody took.
    pub fn finish(self, owner: &str) -> Result<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::argument(name, format!("not an argument of {owner}"))),
        }
    }
}

/// A token id, if `value` is one.
fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// A list of token ids, if `value` is one.
pub(super) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(token_id).collect()
}

/// "received X, allowed is Y".
pub(super) fn refusal(name: &str, received: &Value, allowed: &str) -> Error {
    Error::argument(name, format!("received {received}, expected {allowed}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn arguments(value: Value) -> Arguments {
        Arguments::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn defaults_and_values() {
        let mut given =
            arguments(json!({"a": 2, "b": 0.5, "c": true, "d": [1, 2], "e": -1, "f": null}));
        assert_eq!(given.count("a", 9, 1).unwrap(), 2);
        assert_eq!(given.number("b", 9.0).unwrap(), 0.5);
        assert!(given.flag("c", false).unwrap());
        assert_eq!(given.token_ids("d").unwrap(), [1, 2]);
        assert_eq!(given.seed("e").unwrap(), u64::MAX);
        assert_eq!(given.optional_count("f", 1).unwrap(), None);
        assert_eq!(given.count("g", 9, 1).unwrap(), 9);
        given.finish("this test").unwrap();
    }

    #[test]
    fn refusals_name_the_argument_what_came_and_what_is_allowed() {
        let mut given = arguments(json!({
            "k": 0, "temperature": "hot", "p": null, "num_beams": 2.5, "stop_token_ids": [-1], "x": 1
        }));
        let message = |error: Error| error.to_string();
        assert_eq!(
            message(given.count("k", 5, 1).unwrap_err()),
            "`k`: received 0, expected an integer, at least 1"
        );
        assert_eq!(
            message(given.number("temperature", 1.0).unwrap_err()),
            "`temperature`: received \"hot\", expected a finite number"
        );
        assert_eq!(
            message(given.number("p", 1.0).unwrap_err()),
            "`p`: received null, expected a finite number"
        );
        assert!(given.count("num_beams", 5, 1).is_err());
        assert!(given.token_ids("stop_token_ids").is_err());
        assert_eq!(
            message(given.finish("sampler \"greedy\"").unwrap_err()),
            "`x`: not an argument of sampler \"greedy\""
        );
    }
}
