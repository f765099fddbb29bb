//! Weights of which nothing arrived: a tool that reserves a file's place before it downloads leaves
//! a file of the right length and header whose data are zeros.
//!
//! A matrix whose elements are all one value has no trained meaning: all of its outputs are equal.
//! Elements are read at places spread over the tensor, and two that differ end the search, so that
//! opening a real checkpoint touches one page of each tensor, which loading reads anyway. Norms,
//! biases and layer scales may be constant and are not looked at; nor are matrices that training
//! starts with zeros.

use super::error::{CheckpointError, quoted};
use super::expected::ExpectedTensor;
use super::shard::MappedTensor;

/// Places at which elements are compared, spread evenly.
const PLACES: usize = 64;
/// Consecutive elements at each place.
const AT_EACH: usize = 32;
/// Smaller tensors are not looked at.
const FEWEST: usize = 64;
/// Matrices that training code initialises with zeros: the modulation of pi0.5's adaptive norms.
const BEGIN_AS_ZERO: &str = "norm.dense.weight";

/// Whether all elements at the places looked at have the same bytes.
fn is_constant(tensor: &MappedTensor) -> bool {
    let elements = tensor.elements();
    let bytes = tensor.bytes();
    let size = bytes.len().checked_div(elements).unwrap_or(0);
    // One row is a bias or a token that may have begun as zeros.
    let columns = tensor.shape().last().copied().unwrap_or(1);
    if elements < FEWEST || size == 0 || elements == columns {
        return false;
    }
    let first = &bytes[..size];
    let last_place = elements.saturating_sub(AT_EACH);
    (0..PLACES).all(|place| {
        let begin = last_place * place / (PLACES - 1) * size;
        let end = (begin + AT_EACH * size).min(bytes.len());
        bytes[begin..end].chunks_exact(size).all(|element| element == first)
    })
}

/// Refuses a weight matrix whose elements are all the same.
pub(super) fn refuse_constant(tensor: &MappedTensor) -> Result<(), CheckpointError> {
    if tensor.name().ends_with(BEGIN_AS_ZERO) || !is_constant(tensor) {
        return Ok(());
    }
    let value = tensor.to_f32_vec().ok().and_then(|values| values.first().copied());
    let value = value.map_or_else(|| "one value".to_owned(), |value| value.to_string());
    Err(CheckpointError::is(
        tensor.path(),
        format!("tensor {} is {value} at every place looked at", quoted(tensor.name())),
        "its data did not arrive or were overwritten; download the file again",
    ))
}

/// [`refuse_constant`] for every tensor that is read, of those that are there.
pub(super) fn refuse_constant_weights<'a>(
    expected: impl IntoIterator<Item = &'a ExpectedTensor>,
    mut tensor: impl FnMut(&str) -> Option<MappedTensor>,
) -> Result<(), CheckpointError> {
    let used = expected.into_iter().filter(|expected| expected.used);
    used.filter_map(|expected| tensor(&expected.name)).try_for_each(|t| refuse_constant(&t))
}
