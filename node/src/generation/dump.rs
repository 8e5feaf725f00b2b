//! Intermediate tensors of a generation, collected for one safetensors file.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use leoma_models::{Error, Result};

/// Tensors in memory until [`Dump::write`].
#[derive(Debug, Default)]
pub struct Dump {
    tensors: BTreeMap<String, Tensor>,
    decoded: Vec<Tensor>,
    frames_u8: Vec<u8>,
    frame_size: [usize; 2],
}

impl Dump {
    /// Keeps one tensor: floats as f32, integers as they are.
    ///
    /// # Errors
    /// When the tensor cannot be copied to the host.
    pub fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let tensor = tensor.to_device(&Device::Cpu)?;
        let tensor = if tensor.dtype().is_float() {
            tensor.to_dtype(DType::F32)?
        } else {
            tensor
        };
        self.tensors.insert(name.to_owned(), tensor.contiguous()?);
        Ok(())
    }

    /// Appends decoded frames, `[3, f, H, W]` f32.
    pub(crate) fn decoded(&mut self, frames: &Tensor) -> Result<()> {
        self.decoded
            .push(frames.to_device(&Device::Cpu)?.contiguous()?);
        Ok(())
    }

    /// Appends one frame of bytes, `[H, W, 3]`.
    pub(crate) fn frame_u8(&mut self, rgb: &[u8], size: [usize; 2]) {
        self.frame_size = size;
        self.frames_u8.extend_from_slice(rgb);
    }

    /// Takes over everything another dump collected.
    pub fn absorb(&mut self, other: Self) {
        self.tensors.extend(other.tensors);
        self.decoded.extend(other.decoded);
        self.frames_u8.extend(other.frames_u8);
        if other.frame_size != [0, 0] {
            self.frame_size = other.frame_size;
        }
    }

    /// Writes the file: complete or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] naming `path`.
    pub fn write(mut self, path: &Path) -> Result<()> {
        if !self.decoded.is_empty() {
            let decoded = Tensor::cat(&self.decoded, 1)?.unsqueeze(0)?; // [1, 3, T, H, W]
            self.tensors.insert("decoded".into(), decoded);
        }
        let [height, width] = self.frame_size;
        if height * width > 0 {
            let frames = self.frames_u8.len() / (3 * height * width);
            let tensor =
                Tensor::from_vec(self.frames_u8, (frames, height, width, 3), &Device::Cpu)?;
            self.tensors.insert("frames_u8".into(), tensor);
        }
        let bytes = safetensors::serialize(&self.tensors, None)
            .map_err(|error| Error::local(format!("{}: {error}", path.display())))?;
        let folder = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let mut file =
            tempfile::NamedTempFile::new_in(folder).map_err(|error| Error::io(folder, error))?;
        std::io::Write::write_all(&mut file, &bytes).map_err(|error| Error::io(path, error))?;
        file.as_file()
            .sync_all()
            .map_err(|error| Error::io(path, error))?;
        file.persist(path)
            .map_err(|error| Error::io(path, error.error))?;
        Ok(())
    }
}
