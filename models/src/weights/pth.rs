//! PyTorch archives (`.pth`): a ZIP of stored members, one pickle that describes tensors and one member of
//! raw bytes per storage. Tensors only; see [`super::pickle`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::pickle;
use super::safetensors::{MAX_RANK, MAX_TENSORS, check_name};
use super::stream::Entry;
use crate::error::{Error, Result};

/// Longest pickle; the released text encoder's has about 0.05 MiB.
const MAX_PICKLE: u64 = 8 << 20;

/// An open archive, and what its errors need.
struct Archive<'a> {
    zip: ZipArchive<BufReader<&'a File>>,
    path: &'a Path,
    /// Bytes in the file.
    length: u64,
}

/// Reads and checks what the archive says about its tensors.
pub(super) fn read_header(file: &File, path: &Path) -> Result<BTreeMap<String, Entry>> {
    let refuse = |message: String| Error::artifact(path, message);
    let length = file
        .metadata()
        .map_err(|source| Error::io(path, source))?
        .len();
    let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| {
        refuse(format!(
            "not a PyTorch archive ({error}); files of PyTorch before 1.6 and cut files cannot be read: \
             save it again or fetch it again"
        ))
    })?;
    let mut archive = Archive { zip, path, length };
    let names: Vec<String> = archive
        .zip
        .file_names()
        .map(|name| name.map(std::borrow::Cow::into_owned))
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| refuse(format!("bad archive: {error}")))?;
    let mut prefixes = names
        .iter()
        .filter_map(|name| name.strip_suffix("data.pkl"));
    let (Some(prefix), None) = (prefixes.next(), prefixes.next()) else {
        return Err(refuse(
            "the archive does not hold exactly one data.pkl".into(),
        ));
    };
    if names
        .iter()
        .any(|name| *name == format!("{prefix}byteorder"))
    {
        let order = archive.read(&format!("{prefix}byteorder"), 16)?;
        if order != b"little" {
            return Err(refuse(
                "the archive was written on a big-endian machine; save it again".into(),
            ));
        }
    }

    let pickled = archive.read(&format!("{prefix}data.pkl"), MAX_PICKLE)?;
    let tensors = pickle::tensors(&pickled).map_err(&refuse)?;
    if tensors.len() > MAX_TENSORS {
        return Err(refuse(format!(
            "{} tensors, at most {MAX_TENSORS} are accepted",
            tensors.len()
        )));
    }
    let mut entries = BTreeMap::new();
    for (name, tensor) in tensors {
        check_name(&name).map_err(&refuse)?;
        if tensor.shape.len() > MAX_RANK {
            return Err(refuse(format!(
                "tensor `{name}` has {} axes, at most {MAX_RANK} are accepted",
                tensor.shape.len()
            )));
        }
        let (start, bytes) = archive.locate(&format!("{prefix}data/{}", tensor.storage))?;
        let size = tensor.dtype.size() as u64;
        let end = tensor
            .shape
            .iter()
            .try_fold(1_u64, |n, &size| n.checked_mul(size as u64))
            .and_then(|elements| elements.checked_add(tensor.offset));
        let stored = tensor.storage_elements.checked_mul(size);
        if end.is_none_or(|end| end > tensor.storage_elements) || stored.is_none_or(|n| n > bytes) {
            return Err(refuse(format!(
                "tensor `{name}` of shape {:?} reaches past its {bytes} stored bytes",
                tensor.shape
            )));
        }
        let offset = start + tensor.offset * size;
        entries.insert(
            name,
            Entry {
                dtype: tensor.dtype,
                shape: tensor.shape,
                offset,
            },
        );
    }
    Ok(entries)
}

impl Archive<'_> {
    fn refuse(&self, name: &str, message: impl std::fmt::Display) -> Error {
        Error::artifact(
            self.path,
            format!("archive member `{}`: {message}", name.escape_default()),
        )
    }

    /// Position and length of a stored member's bytes in the file.
    fn locate(&mut self, name: &str) -> Result<(u64, u64)> {
        let found = self.zip.by_name(name).map(|member| {
            let stored = member.compression() == CompressionMethod::Stored && !member.encrypted();
            (stored, member.size(), member.data_start())
        });
        let (stored, size, start) = found.map_err(|error| self.refuse(name, error))?;
        if !stored {
            return Err(self.refuse(
                name,
                "compressed or encrypted; PyTorch stores members plainly",
            ));
        }
        let start = start.ok_or_else(|| self.refuse(name, "has no data"))?;
        if start.checked_add(size).is_none_or(|end| end > self.length) {
            return Err(self.refuse(
                name,
                "truncated, reaches past the end of the file; fetch it again",
            ));
        }
        Ok((start, size))
    }

    /// The bytes of a small member.
    fn read(&mut self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (_, size) = self.locate(name)?;
        if size > limit {
            return Err(self.refuse(
                name,
                format!("has {size} bytes, at most {limit} are accepted"),
            ));
        }
        let mut bytes = Vec::new();
        let read = self
            .zip
            .by_name(name)
            .map_err(std::io::Error::other)
            .and_then(|member| member.take(limit).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(bytes),
            Err(error) => Err(self.refuse(name, error)),
        }
    }
}
