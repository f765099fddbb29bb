//! Weight files, changed tensor by tensor.

use std::path::Path;

use serde_json::{Map, Value, json};

/// A tensor as a safetensors file holds it.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

/// The tensors of a file, in the order of their data.
pub fn read(path: &Path) -> Vec<Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let mut tensors: Vec<(usize, Tensor)> = header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__")
        .map(|(name, entry)| {
            let [begin, end]: [usize; 2] =
                serde_json::from_value(entry["data_offsets"].clone()).unwrap();
            let shape = serde_json::from_value(entry["shape"].clone()).unwrap();
            let dtype = entry["dtype"].as_str().unwrap().to_owned();
            (begin, Tensor { name, dtype, shape, data: data[begin..end].to_vec() })
        })
        .collect();
    tensors.sort_by_key(|(begin, _)| *begin);
    tensors.into_iter().map(|(_, tensor)| tensor).collect()
}

/// The bytes of a file with these tensors.
pub fn bytes(tensors: &[Tensor]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for tensor in tensors {
        let begin = data.len();
        data.extend_from_slice(&tensor.data);
        header.insert(
            tensor.name.clone(),
            json!({"dtype": tensor.dtype, "shape": tensor.shape,
                "data_offsets": [begin, data.len()]}),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// A bfloat16 tensor of numbers that differ.
pub fn tensor(name: &str, shape: &[usize]) -> Tensor {
    let data = (0..shape.iter().product::<usize>()).flat_map(|i| [(i % 251) as u8, 0x3c]).collect();
    Tensor { name: name.into(), dtype: "BF16".into(), shape: shape.to_vec(), data }
}
