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

type Archive<'a> = ZipArchive<BufReader<&'a File>>;

/// Reads and checks what the archive says about its tensors.
pub(super) fn read_header(file: &File, path: &Path) -> Result<BTreeMap<String, Entry>> {
    let refuse = |message: String| Error::artifact(path, message);
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| {
        refuse(format!(
            "not a PyTorch archive ({error}); files of PyTorch before 1.6 and cut files cannot be read: \
             save it again or fetch it again"
        ))
    })?;
    let names: Vec<String> = archive
        .file_names()
        .map(|name| name.map(|name| name.into_owned()))
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| refuse(format!("bad archive: {error}")))?;
    let mut prefixes = names.iter().filter_map(|name| name.strip_suffix("data.pkl"));
    let (Some(prefix), None) = (prefixes.next(), prefixes.next()) else {
        return Err(refuse("the archive does not hold exactly one data.pkl".into()));
    };
    if names.iter().any(|name| *name == format!("{prefix}byteorder")) {
        let order = member(&mut archive, path, &format!("{prefix}byteorder"), 16)?;
        if order != b"little" {
            return Err(refuse("the archive was written on a big-endian machine; save it again".into()));
        }
    }

    let pickled = member(&mut archive, path, &format!("{prefix}data.pkl"), MAX_PICKLE)?;
    let tensors = pickle::tensors(&pickled).map_err(&refuse)?;
    if tensors.len() > MAX_TENSORS {
        return Err(refuse(format!("{} tensors, at most {MAX_TENSORS} are accepted", tensors.len())));
    }
    let mut entries = BTreeMap::new();
    for (name, tensor) in tensors {
        check_name(&name).map_err(&refuse)?;
        if tensor.shape.len() > MAX_RANK {
            return Err(refuse(format!(
                "tensor `{name}` has {} axes, at most {MAX_RANK} are accepted", tensor.shape.len()
            )));
        }
        let (start, bytes) = locate(&mut archive, path, &format!("{prefix}data/{}", tensor.storage))?;
        let size = tensor.dtype.size() as u64;
        let end = tensor
            .shape
            .iter()
            .try_fold(1_u64, |n, &size| n.checked_mul(size as u64))
            .and_then(|elements| elements.checked_add(tensor.offset));
        let stored = tensor.storage_elements.checked_mul(size);
        if end.is_none_or(|end| end > tensor.storage_elements) || stored.is_none_or(|n| n > bytes) {
            return Err(refuse(format!(
                "tensor `{name}` of shape {:?} reaches past its {bytes} stored bytes", tensor.shape
            )));
        }
        let offset = start + tensor.offset * size;
        entries.insert(name, Entry { dtype: tensor.dtype, shape: tensor.shape, offset });
    }
    Ok(entries)
}

/// Position and length of a stored member's bytes in the file.
fn locate(archive: &mut Archive<'_>, path: &Path, name: &str) -> Result<(u64, u64)> {
    let refuse = |message: String| Error::artifact(path, message);
    let member = archive
        .by_name(name)
        .map_err(|error| refuse(format!("archive member `{}`: {error}", name.escape_default())))?;
    if member.compression() != CompressionMethod::Stored || member.encrypted() {
        return Err(refuse(format!(
            "archive member `{}` is compressed or encrypted; PyTorch stores members plainly",
            name.escape_default()
        )));
    }
    let size = member.size();
    let start = member
        .data_start()
        .ok_or_else(|| refuse(format!("archive member `{}` has no data", name.escape_default())))?;
    drop(member);
    let length = archive_length(archive).map_err(|source| Error::io(path, source))?;
    if start.checked_add(size).is_none_or(|end| end > length) {
        return Err(refuse(format!(
            "truncated: archive member `{}` reaches past the end of the file; fetch it again",
            name.escape_default()
        )));
    }
    Ok((start, size))
}

fn archive_length(archive: &Archive<'_>) -> std::io::Result<u64> {
    archive.get_ref().get_ref().metadata().map(|metadata| metadata.len())
}

fn member(archive: &mut Archive<'_>, path: &Path, name: &str, limit: u64) -> Result<Vec<u8>> {
    locate(archive, path, name)?;
    let mut bytes = Vec::new();
    let read = archive
        .by_name(name)
        .map_err(std::io::Error::other)
        .and_then(|member| member.take(limit + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(Error::artifact(path, format!("archive member `{name}` cannot be read: {error}")));
    }
    if bytes.len() as u64 > limit {
        return Err(Error::artifact(path, format!("archive member `{name}` has more than {limit} bytes")));
    }
    Ok(bytes)
}
