//! Tensors on the mesh, and arrays on the host.

use std::sync::Arc;

use tt_metal_sys as abi;
use tt_metal_sys::Provider;

use crate::mesh::Inner;
use crate::{Error, Format, Layout, Mesh, Result};

/// A tensor on one chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Shape: [d0, d1, rows, columns].
    pub dims: [usize; 4],
    /// Number format.
    pub format: Format,
    /// Order in memory.
    pub layout: Layout,
}

pub(crate) fn words(dims: [usize; 4]) -> Result<[u32; 4]> {
    let mut out = [0; 4];
    for (word, dim) in out.iter_mut().zip(dims) {
        *word = u32::try_from(dim)
            .map_err(|_| Error::Host(format!("shape {dims:?} does not fit 32 bits")))?;
    }
    Ok(out)
}

impl Spec {
    pub(crate) fn to_abi(self) -> Result<abi::Spec> {
        Ok(abi::Spec {
            dims: words(self.dims)?,
            format: self.format.to_abi(),
            layout: self.layout.to_abi(),
        })
    }
}

/// Distribution of a host array over the chips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Distribution {
    /// The whole array on each chip.
    Replicate,
    /// Equal parts along a dimension, in chip order.
    Shard(usize),
}

impl Distribution {
    pub(crate) fn to_abi(self) -> abi::Distribution {
        match self {
            Self::Replicate => abi::Distribution { kind: abi::TTP_REPLICATE, dim: 0 },
            Self::Shard(dim) => abi::Distribution {
                kind: abi::TTP_SHARD,
                dim: u32::try_from(dim).unwrap_or(u32::MAX),
            },
        }
    }
}

/// An array on the host: row-major, or packed into tiles by [`pack`].
#[derive(Debug, Clone, Copy)]
pub struct HostArray<'a> {
    data: *const u8,
    length: usize,
    dims: [usize; 4],
    format: Format,
    layout: Layout,
    borrowed: std::marker::PhantomData<&'a [u8]>,
}

// SAFETY: it is a shared borrow of plain bytes; the pointer is only a type-erased `&'a [_]`.
unsafe impl Send for HostArray<'_> {}
// SAFETY: as above.
unsafe impl Sync for HostArray<'_> {}

impl<'a> HostArray<'a> {
    fn new<T>(data: &'a [T], dims: [usize; 4], format: Format, layout: Layout) -> Self {
        Self {
            data: data.as_ptr().cast(),
            length: size_of_val(data),
            dims,
            format,
            layout,
            borrowed: std::marker::PhantomData,
        }
    }

    /// float32 elements of the whole array.
    pub fn f32(data: &'a [f32], dims: [usize; 4]) -> Self {
        Self::new(data, dims, Format::F32, Layout::RowMajor)
    }

    /// bfloat16 elements as stored in a checkpoint: little-endian, row-major.
    pub fn bf16_bytes(data: &'a [u8], dims: [usize; 4]) -> Self {
        Self::new(data, dims, Format::Bf16, Layout::RowMajor)
    }

    /// Elements of `format` as little-endian row-major bytes.
    pub fn bytes(data: &'a [u8], dims: [usize; 4], format: Format) -> Self {
        Self::new(data, dims, format, Layout::RowMajor)
    }

    /// Ids.
    pub fn u32(data: &'a [u32], dims: [usize; 4]) -> Self {
        Self::new(data, dims, Format::U32, Layout::RowMajor)
    }

    /// Positions.
    pub fn i32(data: &'a [i32], dims: [usize; 4]) -> Self {
        Self::new(data, dims, Format::I32, Layout::RowMajor)
    }

    /// Camera bytes.
    pub fn u8(data: &'a [u8], dims: [usize; 4]) -> Self {
        Self::new(data, dims, Format::U8, Layout::RowMajor)
    }

    /// Result of [`pack`] for the same dims, format and distribution.
    pub fn packed(data: &'a [u8], dims: [usize; 4], format: Format) -> Self {
        Self::new(data, dims, format, Layout::Tile)
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn to_abi(self) -> Result<abi::Host> {
        Ok(abi::Host {
            data: self.data.cast(),
            bytes: self.length as u64,
            dims: words(self.dims)?,
            format: self.format.to_abi(),
            layout: self.layout.to_abi(),
        })
    }
}

/// Packs a row-major array into tiles of `format`, shard after shard, for a cache on disk.
pub fn pack(
    provider: &Provider,
    array: HostArray<'_>,
    distribution: Distribution,
    chips: usize,
    format: Format,
) -> Result<Vec<u8>> {
    let (host, distribution) = (array.to_abi()?, distribution.to_abi());
    let chips = u32::try_from(chips).unwrap_or(u32::MAX);
    let call = |data: *mut u8, length: u64| -> Result<u64> {
        let mut needed = 0;
        let api = provider.api();
        // SAFETY: `host` borrows `array`; `data` is NULL or has room for `length` bytes.
        let status = unsafe {
            (api.ttp_pack)(
                &raw const host,
                &raw const distribution,
                chips,
                format.to_abi(),
                data.cast(),
                length,
                &raw mut needed,
            )
        };
        if status == abi::TTP_OK {
            Ok(needed)
        } else {
            Err(Error::provider(api, "ttp_pack", status))
        }
    };
    let length = call(std::ptr::null_mut(), 0)?;
    let mut out = vec![
        0;
        usize::try_from(length)
            .map_err(|_| Error::Host(format!("packing takes {length} bytes")))?
    ];
    call(out.as_mut_ptr(), length)?;
    Ok(out)
}

/// A tensor on the mesh. Clones are the same tensor; the last one frees it.
#[derive(Clone)]
pub struct Tensor(Arc<Owned>);

struct Owned {
    mesh: Arc<Inner>,
    handle: abi::TensorHandle,
    spec: Spec,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.mesh.is_closed() {
            return; // freed with its mesh
        }
        // SAFETY: a plain call with a number; this is its only owner.
        let status = unsafe { (self.mesh.api().ttp_tensor_free)(self.handle) };
        if let Err(error) = self.mesh.checked("ttp_tensor_free", status) {
            self.mesh.defer(error);
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?} {} {})", self.0.spec.dims, self.0.spec.format, self.0.spec.layout)
    }
}

impl Tensor {
    /// Takes ownership of a handle returned by a call.
    pub(crate) fn adopt(mesh: Arc<Inner>, handle: abi::TensorHandle) -> Result<Self> {
        let mut raw = abi::Spec { dims: [0; 4], format: 0, layout: 0 };
        // SAFETY: the pointer is valid for the call.
        let status = unsafe { (mesh.api().ttp_tensor_describe)(handle, &raw mut raw) };
        let (format, layout) = (Format::from_abi(raw.format), Layout::from_abi(raw.layout));
        let spec = Spec {
            dims: raw.dims.map(|dim| dim as usize),
            format: format.unwrap_or(Format::F32),
            layout: layout.unwrap_or(Layout::RowMajor),
        };
        if let Some(capturing) = mesh.capturing().as_mut() {
            capturing.made.insert(handle);
        }
        // Owned from here on, so that a failure below frees it.
        let tensor = Self(Arc::new(Owned { mesh: mesh.clone(), handle, spec }));
        mesh.checked("ttp_tensor_describe", status)?;
        if format.is_none() || layout.is_none() {
            return Err(Error::Host(format!(
                "the provider described a tensor of format {} and layout {}, which the ABI does \
                not have",
                raw.format, raw.layout
            )));
        }
        Ok(tensor)
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0.mesh
    }

    /// The handle as an input of a call; during a capture the trace keeps its inputs alive.
    pub(crate) fn input(&self) -> abi::TensorHandle {
        if let Some(capturing) = self.0.mesh.capturing().as_mut()
            && !capturing.made.contains(&self.0.handle)
        {
            capturing.read.entry(self.0.handle).or_insert_with(|| self.clone());
        }
        self.0.handle
    }

    /// The mesh.
    pub fn mesh(&self) -> Mesh {
        Mesh(self.0.mesh.clone())
    }

    /// Spec of one chip's part.
    pub fn spec(&self) -> Spec {
        self.0.spec
    }

    /// Its shape on one chip.
    pub fn dims(&self) -> [usize; 4] {
        self.0.spec.dims
    }

    /// Its number format.
    pub fn format(&self) -> Format {
        self.0.spec.format
    }

    /// Device address, for runtime arguments of custom kernels.
    pub fn address(&self) -> Result<u32> {
        self.0.mesh.take_deferred_error()?;
        let mut address = 0;
        // SAFETY: the pointer is valid for the call.
        let status =
            unsafe { (self.0.mesh.api().ttp_tensor_address)(self.0.handle, &raw mut address) };
        self.0.mesh.checked("ttp_tensor_address", status)?;
        Ok(address)
    }

    /// Overwrites the tensor in place, for example the input of a trace.
    pub fn write(&self, array: HostArray<'_>, distribution: Distribution) -> Result<()> {
        self.0.mesh.take_deferred_error()?;
        let (host, distribution) = (array.to_abi()?, distribution.to_abi());
        // SAFETY: both pointers are valid for the call; `host` borrows `array`.
        let status = unsafe {
            (self.0.mesh.api().ttp_tensor_write)(
                self.0.handle,
                &raw const host,
                &raw const distribution,
            )
        };
        self.0.mesh.checked("ttp_tensor_write", status)?;
        self.0.mesh.count_write(array.length());
        Ok(())
    }

    fn read_into<T>(&self, chip: usize, format: Format, out: &mut [T]) -> Result<()> {
        self.0.mesh.take_deferred_error()?;
        let chip = u32::try_from(chip).unwrap_or(u32::MAX);
        // SAFETY: `out` is plain numbers and has room for the bytes named.
        let status = unsafe {
            (self.0.mesh.api().ttp_tensor_read)(
                self.0.handle,
                chip,
                format.to_abi(),
                out.as_mut_ptr().cast(),
                size_of_val(out) as u64,
            )
        };
        self.0.mesh.checked("ttp_tensor_read", status)?;
        self.0.mesh.count_read(size_of_val(out));
        Ok(())
    }

    fn elements(&self) -> usize {
        self.dims().iter().product()
    }

    /// One chip's part as float32, row-major. Waits for the work before it.
    pub fn read_f32(&self, chip: usize) -> Result<Vec<f32>> {
        let mut out = vec![0.0f32; self.elements()];
        self.read_into(chip, Format::F32, &mut out)?;
        Ok(out)
    }

    /// One chip's part of a U32 or I32 tensor, by its bits.
    pub fn read_u32(&self, chip: usize) -> Result<Vec<u32>> {
        let mut out = vec![0u32; self.elements()];
        self.read_into(
            chip,
            if self.format() == Format::I32 { Format::I32 } else { Format::U32 },
            &mut out,
        )?;
        Ok(out)
    }

    /// All chips' parts joined along `dim`, as float32: the whole of an array that was sharded
    /// along it.
    pub fn gather_f32(&self, dim: usize) -> Result<Vec<f32>> {
        if dim > 3 {
            return Err(Error::Host(format!("dimension {dim} is not 0..3")));
        }
        let parts: Vec<Vec<f32>> =
            (0..self.mesh().chips()).map(|chip| self.read_f32(chip)).collect::<Result<_>>()?;
        let run: usize = self.dims()[dim..].iter().product();
        let mut out = Vec::with_capacity(self.elements() * parts.len());
        for start in (0..self.elements()).step_by(run.max(1)) {
            parts.iter().for_each(|part| out.extend_from_slice(&part[start..start + run]));
        }
        Ok(out)
    }
}
