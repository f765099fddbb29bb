//! Image bytes to the patch matrix shared by all towers, and the patch embedding's weights for it.
//!
//! The matrix holds bytes minus 128, which bf16 represents exactly. Mean and standard deviation, in
//! which the towers differ, are folded into the patch embedding's weights. All towers therefore
//! share one matrix, and pixels are not rounded.

use tt_metal::{Distribution, Format, HostArray, Layout, Tensor};

use super::{BackendError, TtBackend, TtTensor, device, shape_error};
use crate::backend::patches::{centred_patches, check_pixels};
use crate::backend::tt::sharding::Sharding;
use crate::backend::{LinearSource, PatchEmbeddingSource, Pixels};
use crate::tensor::HostTensor;

/// An RGB image on the mesh, and its patch matrix.
pub struct TtImage {
    side: usize,
    patch: usize,
    /// BF16 tiles `[1, 1, patches, 3 * patch^2]`.
    matrix: Tensor,
    /// U8 `[1, 1, side, 3 * side]`, input of the kernel that fills the matrix; `None` when the host
    /// extracts the patches.
    bytes: Option<Tensor>,
}

impl TtImage {
    pub(super) fn new(backend: &TtBackend, pixels: Pixels<'_>) -> Result<Self, BackendError> {
        const OPERATION: &str = "upload_image";
        let Pixels { rgb, side, patch } = pixels;
        check_pixels(OPERATION, pixels)?;
        let mesh = &backend.mesh;
        let (count, columns) = ((side / patch).pow(2), 3 * patch * patch);
        if backend.custom_kernels() {
            let array = HostArray::u8(rgb, [1, 1, side, 3 * side]);
            let bytes = mesh.upload(array, Distribution::Replicate, Format::U8, Layout::RowMajor);
            let matrix = mesh
                .empty([1, 1, count, columns], Format::Bf16, Layout::Tile)
                .map_err(device(OPERATION))?;
            return Ok(Self {
                side,
                patch,
                matrix,
                bytes: Some(bytes.map_err(device(OPERATION))?),
            });
        }
        let values = centred_patches(pixels);
        let array = HostArray::f32(&values, [1, 1, count, columns]);
        let matrix = mesh.upload(array, Distribution::Replicate, Format::Bf16, Layout::Tile);
        Ok(Self { side, patch, matrix: matrix.map_err(device(OPERATION))?, bytes: None })
    }

    pub(super) fn write(&self, rgb: &[u8]) -> Result<(), BackendError> {
        const OPERATION: &str = "write_image";
        let pixels = Pixels { rgb, side: self.side, patch: self.patch };
        check_pixels(OPERATION, pixels)?;
        let written = match &self.bytes {
            Some(bytes) => bytes.write(HostArray::u8(rgb, bytes.dims()), Distribution::Replicate),
            None => {
                let values = centred_patches(pixels);
                self.matrix
                    .write(HostArray::f32(&values, self.matrix.dims()), Distribution::Replicate)
            }
        };
        written.map_err(device(OPERATION))
    }

    pub(super) fn cut(&self, backend: &TtBackend) -> Result<TtTensor, BackendError> {
        if let Some(bytes) = &self.bytes {
            tt_metal::kernels::image_patches(&backend.mesh, bytes, &self.matrix, self.patch)
                .map_err(device("cut_patches"))?;
        }
        let [_, _, rows, columns] = self.matrix.dims();
        Ok(TtTensor {
            parts: vec![self.matrix.clone()],
            sharding: Sharding::Replicated,
            rows,
            columns,
        })
    }
}

/// The patch embedding as a layer over bytes minus 128: `W' = W / (255 std)`, `b' = b + sum W
/// (128/255 - mean) / std`.
pub(super) fn folded(source: PatchEmbeddingSource) -> Result<LinearSource, BackendError> {
    const OPERATION: &str = "load_patch_embedding";
    let PatchEmbeddingSource { linear, normalisation } = source;
    let [weight] = linear.weights.as_slice() else {
        return Err(shape_error(
            OPERATION,
            format!("{} stacked weights; a patch embedding has one", linear.weights.len()),
        ));
    };
    let [outputs, inputs] = *weight.shape() else {
        return Err(shape_error(
            OPERATION,
            format!("weight {:?} is not [outputs, inputs]", weight.shape()),
        ));
    };
    if !inputs.is_multiple_of(3) || inputs == 0 {
        return Err(shape_error(
            OPERATION,
            format!("{inputs} inputs are not three channels of a patch"),
        ));
    }
    let mut values = weight.to_f32();
    let mut bias = match &linear.bias {
        Some(bias) if bias.len() == outputs => bias.to_f32(),
        Some(bias) => {
            return Err(shape_error(
                OPERATION,
                format!("bias of {} for {outputs} outputs", bias.len()),
            ));
        }
        None => vec![0.0; outputs],
    };
    for (row, bias) in values.chunks_exact_mut(inputs).zip(&mut bias) {
        let mut offset = f64::from(*bias);
        for (at, value) in row.iter_mut().enumerate() {
            let channel = at / (inputs / 3);
            let (mean, std) =
                (f64::from(normalisation.mean[channel]), f64::from(normalisation.std[channel]));
            offset += f64::from(*value) * (128.0 / 255.0 - mean) / std;
            *value = (f64::from(*value) / (255.0 * std)) as f32;
        }
        *bias = offset as f32;
    }
    Ok(LinearSource {
        weights: vec![HostTensor::from_f32(&[outputs, inputs], values)?],
        bias: Some(HostTensor::from_f32(&[outputs], bias)?),
        ..linear
    })
}
