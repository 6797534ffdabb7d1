//! Numpy arrays on their way in and out: ids, masks and floats of known rank.

use numpy::{PyArrayLikeDyn, PyReadonlyArrayDyn, PyUntypedArrayMethods, TypeMustMatch};
use pyo3::prelude::*;

use crate::error::{Error, Result};

/// A rectangle read from Python.
#[derive(Debug, Clone)]
pub struct Rectangle<T> {
    /// Values, row-major.
    pub values: Vec<T>,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub width: usize,
}

/// Token ids `[rows, width]` of any integer dtype that numpy can view as int64 or int32.
pub fn ids(name: &str, array: &Bound<'_, PyAny>) -> Result<Rectangle<u32>> {
    let (values, rows, width) = if let Ok(array) = array.extract::<PyReadonlyArrayDyn<'_, i32>>() {
        let (rows, width) = rectangle(name, array.shape())?;
        (array.as_array().iter().map(|&id| i64::from(id)).collect::<Vec<_>>(), rows, width)
    } else if let Ok(array) = array.extract::<PyArrayLikeDyn<'_, i64, TypeMustMatch>>() {
        let (rows, width) = rectangle(name, array.shape())?;
        (array.as_array().iter().copied().collect(), rows, width)
    } else {
        return Err(Error::argument(name, "must be a 2-D array of int32 or int64"));
    };
    let values = values
        .into_iter()
        .map(|id| {
            u32::try_from(id).map_err(|_| {
                Error::argument(name, format!("token ids must be 0 or more, received {id}"))
            })
        })
        .collect::<Result<_>>()?;
    Ok(Rectangle { values, rows, width })
}

/// A mask `[rows, width]` of bools, of the shape of `like`.
pub fn mask<T>(name: &str, array: &Bound<'_, PyAny>, like: &Rectangle<T>) -> Result<Vec<bool>> {
    let array = array
        .extract::<PyReadonlyArrayDyn<'_, bool>>()
        .map_err(|_| Error::argument(name, "must be a 2-D array of bool"))?;
    same_shape(name, rectangle(name, array.shape())?, like)?;
    Ok(array.as_array().iter().copied().collect())
}

/// Floats `[rows, width]`, of the shape of `like`.
pub fn weights<T>(name: &str, array: &Bound<'_, PyAny>, like: &Rectangle<T>) -> Result<Vec<f32>> {
    let array = array
        .extract::<PyReadonlyArrayDyn<'_, f32>>()
        .map_err(|_| Error::argument(name, "must be a 2-D array of float32"))?;
    same_shape(name, rectangle(name, array.shape())?, like)?;
    Ok(array.as_array().iter().copied().collect())
}

fn rectangle(name: &str, shape: &[usize]) -> Result<(usize, usize)> {
    match shape {
        [rows, width] if *width > 0 => Ok((*rows, *width)),
        _ => Err(Error::argument(
            name,
            format!(
                "must have shape [batch, length] with a length of at least 1, received {shape:?}"
            ),
        )),
    }
}

fn same_shape<T>(name: &str, shape: (usize, usize), like: &Rectangle<T>) -> Result<()> {
    if shape == (like.rows, like.width) {
        return Ok(());
    }
    let expected = (like.rows, like.width);
    Err(Error::argument(name, format!("must have shape {expected:?}, received {shape:?}")))
}
